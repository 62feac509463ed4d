"""The path of a callback's exception to the caller.

XLA carries a message only. So the exception is kept in a table here under a mark, which ends the
message; `original_exception` finds it again.

Whatever the exception, the callback or a handler of the log do, an error comes out that names the
callback and has the mark. Exceptions keep the arrays of their tracebacks' frames alive, so the table
is bounded by number and by bytes. Callbacks fail on several threads at once: the lock guards the table,
and is never held while code of the user's runs.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import re
import secrets
import sys
from types import TracebackType
from typing import Any, Never

import jax

from callbax._jax import programs
from callbax._jax.frames import PACKAGE
from callbax._runtime import exceptions, pending, threads
from callbax._runtime.errors import (
    describe_lanes,
    full_name,
    note_call,
    notes_its_calls,
    outermost_first,
)
from callbax._runtime.exceptions import is_a
from callbax._runtime.failure_log import describe, log_failure
from callbax._runtime.hints import add_hint

_MARK = re.compile(r"\[callbax error ([0-9a-f]+-\d+)\]")
_MOST_KEPT = 64
# Of what is kept beside the newest exception.
_MOST_BYTES = 256 << 20

_lock = threads.new_lock()
_process = secrets.token_hex(4)  # marks tell by it which process an error comes from
_numbers = itertools.count(1)
# By mark, the oldest first: the exception, and the sizes of the arrays that it holds.
_kept: collections.OrderedDict[str, tuple[BaseException, dict[int, int]]] = (
    collections.OrderedDict()
)


def _keep(exception: BaseException) -> str:
    """Enters an exception in the table; returns its mark."""
    sizes = exceptions.memory_held(exception)
    with _lock:
        mark = f"{_process}-{next(_numbers)}"
        _kept[mark] = exception, sizes
        dropped = _drop_oldest()
    del dropped  # what goes with them may run users' code, so the lock is free by now
    return mark


def _drop_oldest() -> list[Any]:
    """Takes from the table what is too old, or too large beside what is newer."""
    held: set[int] = set()
    total = 0
    for count, (_, sizes) in enumerate(reversed(_kept.values())):
        total += sum(size for item, size in sizes.items() if item not in held) if count else 0
        held.update(sizes)
        if count == _MOST_KEPT or total > _MOST_BYTES:
            return [_kept.popitem(last=False) for _ in range(len(_kept) - count)]
    return []


def _after_fork_in_child() -> None:
    """Errors of the child are its own; those of the parent from before keep their marks."""
    global _process
    _process = secrets.token_hex(4)


os.register_at_fork(after_in_child=_after_fork_in_child)


def report(
    call: Any,
    flavour: str,
    exception: BaseException,
    call_number: int,
    lane: int,
    sizes: tuple[int, ...],
    arguments: str,
) -> tuple[str, bool, bool]:
    """Keeps and logs a callback's exception. The runtime calls it.

    Args:
      call: the HostCall, or what else names the callback by its `str`.
      call_number: which call in which program it is, if that runs on several devices; else 0, or
        less if nothing that the program returns could carry the error.
      lane, sizes: which lane of which batch failed; a negative lane means the whole call.
      arguments: their dtypes and shapes.

    Returns:
      The message that XLA carries to the caller; whether the run must go on with poisoned results
      instead: in a program on several devices with collectives, the other devices would wait for this
      one for ever, so the exception then surfaces from the next barrier; and whether a
      KeyboardInterrupt came meanwhile.
    """
    interrupted = False
    hide_our_frames(exception)
    mark = _keep(exception)
    callback = describe(call)
    place = describe_lanes(callback, ())
    if lane >= 0:
        lane, sizes = outermost_first(lane, sizes)
        place = describe_lanes(callback, sizes, lane)
    if not notes_its_calls(call):
        note_call(exception, callback, place, arguments)
    add_hint(exception, call, flavour)
    try:
        text = exceptions.format_exception(exception)
    except KeyboardInterrupt:
        interrupted, text = True, exceptions.type_name(exception)
    missing = [n for n in exceptions.notes_of(exception) if is_a(n, str) and n not in text]
    text = "\n".join([text, *missing])
    message = (
        f"{full_name(flavour)}: the callback {callback} failed:\n{text}\n[callbax error {mark}]"
    )
    message = message.encode("utf-8", "replace").decode("utf-8").replace("\0", "\\0")
    poison = call_number > 0 and programs.devices_wait_for_each_other(call_number, call)
    if poison or call_number < 0:
        pending.add(message)
    try:
        log_failure(call, flavour, exception)
    except KeyboardInterrupt:
        interrupted = True
    return message, poison, interrupted


def postpone(call: Any, flavour: str, exception: BaseException, arguments: str) -> None:
    """As `report`, for an exception that does not end its program: the next barrier raises it."""
    message, _, interrupted = report(call, flavour, exception, 0, -1, (), arguments)
    pending.add(message)
    if interrupted:
        raise KeyboardInterrupt


def hide_our_frames(exception: BaseException) -> None:
    """Has its traceback begin with the first frame that is not callbax's own; so its causes'."""
    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        trace = exceptions.traceback_of(current)
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
            trace = trace.tb_next
        exceptions.set_traceback(current, trace)
        current = exceptions.cause_of(current)


def raise_pending() -> None:
    """Raises the first error that has not surfaced yet; the others are its notes."""
    messages = pending.take()
    if not messages:
        return
    message, *others = messages
    error = jax.errors.JaxRuntimeError(f"INTERNAL: {message}")
    for other in others:
        error.add_note(f"Another callback failed before this surfaced: {other}")
    raise error from original_exception(error)


def forget_all() -> None:
    """Lets go of all exceptions, and of what their tracebacks hold."""
    pending.take()
    with _lock:
        dropped = list(_kept.values())
        _kept.clear()
    del dropped


def _find(mark: str) -> BaseException | None:
    with _lock:
        found = _kept.get(mark)
    return None if found is None else found[0]


def original_exception(error: BaseException) -> BaseException | None:
    """The exception object that a callback raised, from the error that JAX raised for it.

    Args:
      error: what a call of a compiled function, `block_until_ready` or a barrier raised. Its causes
        and contexts are searched too.

    Returns:
      The very object, with its traceback, or None if the error does not come from a callback of
      this process, or is too old: the newest 64 exceptions are kept, fewer if they hold large arrays.

    Raises:
      TypeError: `error` is no exception.

    >>> import jax, callbax
    >>> def broken(x):
    ...     raise KeyError("lost")
    >>> try:
    ...     callbax.pure_callback(broken, jax.ShapeDtypeStruct((), "float32"), 1.0).block_until_ready()
    ... except jax.errors.JaxRuntimeError as error:
    ...     original_exception(error)
    KeyError('lost')
    """
    if not exceptions.is_a(error, BaseException):
        raise TypeError(
            "callbax.original_exception takes the exception that JAX raised, but got an object of type "
            f"{type(error).__name__}"
        )
    return _original(error, None)


def _original(error: BaseException, outside: BaseException | None) -> BaseException | None:
    """As above; an error that was merely raised while `outside` was handled does not come from it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        marks = _MARK.findall(exceptions.text_in(current))
        if marks:
            return _find(marks[-1])
        cause, context = exceptions.cause_of(current), exceptions.context_of(current)
        follows = context is not outside and not exceptions.suppresses_context(current)
        current = (context if follows else None) if cause is None else cause
    return None


class reraise(contextlib.ContextDecorator):
    """Raises a callback's own exception in place of the error that JAX makes of it.

    JAX's error becomes the `__cause__`, or the `__context__` of an exception that has a cause of its
    own. An error that no callback raised passes through; so does one that is raised `from None` where
    a callback's was handled. Where a program runs asynchronously, wait for it inside the block.

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

    def __init__(self, *unexpected: Never) -> None:
        if unexpected:
            raise TypeError(
                "callbax.reraise takes no arguments; the decorator has parentheses: @callbax.reraise()"
            )
        # An error that was being handled before is the context of each in the block, not its reason.
        self._outside: list[BaseException | None] = []

    def _recreate_cm(self) -> reraise:
        return reraise()  # each call of a decorated function has its own

    def __enter__(self) -> None:
        self._outside.append(sys.exception())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        outside = self._outside.pop()
        if not is_a(error, Exception) or error is None:
            return
        original = _original(error, outside)
        if original is None or original is error:
            return
        if exceptions.cause_of(original) is not None:
            raise original
        raise original from error
