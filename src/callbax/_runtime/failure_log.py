"""Failures of callbacks: told to who listens, and in the log."""

from __future__ import annotations

import logging
from typing import Any

from callbax._runtime import exceptions, listeners, threads
from callbax._runtime.errors import CallbackResultError, attribute, full_name, logger
from callbax._runtime.exceptions import is_a
from callbax._runtime.wrapper import Wrapper

_jax_loggers: dict[str, logging.Logger | None] = {}


def log_as_jax(flavour: str, logger_name: str | None) -> None:
    """Failures of this flavour are logged as JAX logs them, or not at all, as by JAX.

    Programs silence them by the logger's name and the text.
    """
    _jax_loggers[flavour] = None if logger_name is None else logging.getLogger(logger_name)


def log_failure(call: Any, flavour: str, exception: BaseException) -> None:
    listeners.tell(exception)
    function = attribute(call, "function")
    if is_a(function, Wrapper) and function.is_quiet:
        return
    name = full_name(flavour)
    if flavour not in _jax_loggers:
        threads.log_error(logger, "%s failed in %s", name, describe(call), exception=exception)
        return
    jax_logger = _jax_loggers[flavour]
    if jax_logger is not None and not is_a(
        exception, CallbackResultError
    ):  # these JAX does not log
        threads.log_error(jax_logger, f"{name} failed", exception=exception)


def describe(call: Any) -> str:
    """The callback's name, with file and line."""
    try:
        return str(call)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - it is a user's function that is described
        return exceptions.type_name(attribute(call, "function"))
