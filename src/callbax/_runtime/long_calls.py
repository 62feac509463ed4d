"""A warning of callbacks that hold up the compiler for their GPU."""

from __future__ import annotations

import functools
from typing import Any

from callbax import _native
from callbax._runtime import exceptions, failure_log, streams, threads
from callbax._runtime.errors import logger

SECONDS = 10.0


def watch(seconds: float = SECONDS) -> None:
    """Has a warning logged of each callback in a program on a GPU that takes longer."""
    _native.watch_cuda_calls(seconds, functools.partial(_tell, seconds))


def _tell(seconds: float, call: Any) -> None:
    # By the thread that logs: the callback may hold a lock of the log.
    threads.write_later(functools.partial(_warn, seconds, failure_log.describe(call)))


@functools.cache
def _warn(seconds: float, callback: str) -> None:
    """Once for each callback."""
    try:
        logger.warning(
            "The callback %s, in a program for a GPU, has been running for %g s. While a callback runs, "
            "compilations for its GPU wait (those that measure kernels, as XLA does by default), and so "
            "does what is called on it after them. If the callback waits for such a compilation, it "
            "never ends: compile the program before.",
            callback,
            seconds,
        )
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a handler of the log's, which nobody waits for
        streams.show(exceptions.format_exception(error))
