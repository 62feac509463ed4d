"""Exceptions of callbax, and the way of a callback's exception to the caller.

    CallbackError
    ├── CallbackResultError   what a callback returned does not fit result_shape_dtypes
    ├── CallbackViewError     a callback kept a view of XLA's memory
    ├── ExecutorError         an executor could not run the lanes that it was given
    └── KernelError           a compiled kernel returned an error code

An exception that a callback raises cannot travel through XLA, which carries a message only. It is
kept in a table here, and the message ends with its number; `original_exception` finds it again.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import logging
import os
import re
import traceback
import types
from collections.abc import Callable
from types import TracebackType
from typing import Any

import jax

from callbax import _jax, _native, _threads

logger = logging.getLogger("callbax")

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MARK = re.compile(r"\[callbax error (\d+)\]")
# Tracebacks keep the arrays of their frames alive, so only the newest exceptions are kept.
_KEPT = 64

_lock = _threads.new_lock()
_numbers = itertools.count(1)
_exceptions: collections.OrderedDict[int, BaseException] = collections.OrderedDict()
_pending: list[tuple[str, BaseException]] = []  # poisoned runs whose error has not surfaced yet


class CallbackError(Exception):
    """Base of the exceptions that callbax itself raises."""


class CallbackResultError(CallbackError, RuntimeError):
    """What a callback returned does not fit its `result_shape_dtypes`."""


class CallbackViewError(CallbackError, RuntimeError):
    """A callback kept a view of XLA's memory after it returned."""


class ExecutorError(CallbackError, RuntimeError):
    """An executor could not run lanes: shut down, a worker died, something cannot be pickled.

    What the host function itself raises in a lane is raised as it is.
    """


class KernelError(CallbackError, RuntimeError):
    """A compiled kernel returned an error code.

    Attributes:
      code: what it returned; 1 if it threw a C++ exception.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


for _error in (
    CallbackError,
    CallbackResultError,
    CallbackViewError,
    ExecutorError,
    KernelError,
):
    _error.__module__ = "callbax"  # where users find them


def attribute(item: Any, name: str) -> Any:
    """The attribute, or None: a user's object may raise anything."""
    try:
        return getattr(item, name, None)
    except Exception:  # noqa: BLE001
        return None


def describe_function(function: Callable[..., Any]) -> str:
    """The function's name, with file and line where it has them.

    >>> def f(): ...
    >>> describe_function(f)  # doctest: +ELLIPSIS
    'f (...:1)'
    """
    if isinstance(getattr(type(function), "callbax_description", None), property):
        return function.callbax_description  # type: ignore[attr-defined]
    while isinstance(function, functools.partial):
        function = function.func
    kind = type(function)
    name = attribute(function, "__qualname__") or attribute(function, "__name__")
    name = name if isinstance(name, str) else kind.__qualname__
    code = attribute(function, "__code__")
    if not isinstance(code, types.CodeType):
        code = attribute(attribute(kind, "__call__"), "__code__")
    if not isinstance(code, types.CodeType):
        return name
    return f"{name} ({code.co_filename}:{code.co_firstlineno})"


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is not callbax's own."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        trace = trace.tb_next
    return trace


def log_failure(call: Any, flavour: str, exception: BaseException) -> None:
    name = _public_name(call, flavour)
    _threads.log_error(logger, "%s failed in %s", name, call, exception=exception)


def _public_name(call: Any, flavour: str) -> str:
    """What the user called: the flavour's own function, or one that is built on it."""
    return attribute(attribute(call, "wording"), "called") or f"callbax.{flavour}"


def report(call: Any, flavour: str, exception: BaseException, shared_run: bool) -> tuple[str, bool]:
    """Keeps and logs a callback's exception. The runtime calls it.

    Returns the message that XLA carries to the caller, and whether the run must go on with poisoned
    results instead: in a program on several devices with collectives, the other devices would wait
    for this one for ever. The exception then surfaces from the next barrier.
    """
    trace = _without_our_frames(exception.__traceback__)
    BaseException.with_traceback(exception, trace)
    with _lock:
        number = next(_numbers)
        _exceptions[number] = exception
        while len(_exceptions) > _KEPT:
            _exceptions.popitem(last=False)
    log_failure(call, flavour, exception)
    text = "".join(traceback.format_exception(exception)).rstrip()
    name = _public_name(call, flavour)
    message = f"{name}: the callback {call} failed:\n{text}\n[callbax error {number}]"
    message = message.encode("utf-8", "replace").decode("utf-8").replace("\0", "\\0")
    markers = (_native.Registration, _native.LoopRegistration)
    poison = shared_run and _jax.devices_wait_for_each_other(markers, call)
    if poison:
        with _lock:
            _pending.append((message, exception))
    return message, poison


def take_pending() -> list[str]:
    """Messages of the errors that have not surfaced, which are then forgotten."""
    with _lock:
        messages = [message for message, _ in _pending]
        _pending.clear()
    return messages


def forget_all() -> None:
    """Lets go of all exceptions, and of what their tracebacks hold."""
    with _lock:
        _pending.clear()
        _exceptions.clear()


def raise_pending() -> None:
    """Raises the first error that has not surfaced yet; the others are its notes."""
    with _lock:
        pending = _pending.copy()
        _pending.clear()
    if not pending:
        return
    (message, exception), *others = pending
    error = jax.errors.JaxRuntimeError(f"INTERNAL: {message}")
    for other, _ in others:
        error.add_note(f"Another callback failed before this surfaced: {other}")
    raise error from exception


def original_exception(error: BaseException) -> BaseException | None:
    """The exception object that a callback raised, from the error that JAX raised for it.

    Args:
      error: what a call of a compiled function, `block_until_ready` or a barrier raised. Its causes
        and contexts are searched too.

    Returns:
      The very object, with its traceback, or None if the error does not come from a callback of
      this process (the newest 64 exceptions are kept).

    >>> import jax, callbax
    >>> def broken(x):
    ...     raise KeyError("lost")
    >>> try:
    ...     callbax.pure_callback(broken, jax.ShapeDtypeStruct((), "float32"), 1.0).block_until_ready()
    ... except jax.errors.JaxRuntimeError as error:
    ...     original_exception(error)
    KeyError('lost')
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        found = _MARK.findall(str(current))
        if found:
            with _lock:
                return _exceptions.get(int(found[-1]))
        current = current.__cause__ or current.__context__
    return None


class reraise(contextlib.ContextDecorator):
    """Raises a callback's own exception in place of the error that JAX makes of it.

    JAX's error becomes the `__cause__`. An error that no callback raised passes through. Where a
    program runs asynchronously, wait for it inside the block.

    >>> import jax, callbax
    >>> def broken(x):
    ...     raise KeyError("lost")
    >>> try:
    ...     with reraise():
    ...         callbax.pure_callback(
    ...             broken, jax.ShapeDtypeStruct((), "float32"), 1.0).block_until_ready()
    ... except KeyError as error:
    ...     print(error, type(error.__cause__).__name__)
    'lost' JaxRuntimeError
    """

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        original = original_exception(error) if isinstance(error, Exception) else None
        if original is not None and original is not error:
            raise original from error
