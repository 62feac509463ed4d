"""XLA's threads, as opposed to Python's; and logging that does not hold them up."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from callbax._runtime import exceptions, streams

_FINISH_SECONDS = 1.0

_this_thread = threading.local()
_records: queue.SimpleQueue[Any] = queue.SimpleQueue()


def new_lock(*, reentrant: bool = False) -> Any:
    """A lock for a module, which is free in a forked child, whoever holds it in the parent."""
    lock: Any = threading.RLock() if reentrant else threading.Lock()
    os.register_at_fork(after_in_child=lock._at_fork_reinit)
    return lock


_lock = new_lock()
_writer: threading.Thread | None = None  # guarded by _lock


def mark_worker(is_worker: bool = True) -> None:
    _this_thread.is_worker = is_worker


def on_worker() -> bool:
    """Whether this is one of XLA's threads that has run a callback, or works for one."""
    return getattr(_this_thread, "is_worker", False)


_tracing: tuple[Any, Any] = (None, None)  # that XLA's threads have been told of


def tracing_has_changed() -> bool:
    """Whether threading.settrace or threading.setprofile was called since this was last asked."""
    global _tracing
    before, _tracing = _tracing, (threading.gettrace(), threading.getprofile())
    return before != _tracing


def follow_tracing() -> None:
    """On one of XLA's threads: does what Python's threads do when they start."""
    sys.settrace(threading.gettrace())
    sys.setprofile(threading.getprofile())


def log_error(logger: logging.Logger, message: str, *args: Any, exception: BaseException) -> None:
    """Logs at once; from XLA's threads through a thread of its own.

    A logging handler holds its lock while it formats, and a message may contain an array that waits
    for the very program whose callback has failed. Whether it is logged is decided at once: a program
    may filter for as long as a call lasts. Whatever a handler raises is shown on stderr, but for
    a KeyboardInterrupt on the thread that calls.
    """
    record = _record(logger, message, args, exception)
    if record is None:
        return

    def write() -> None:
        try:
            logger.callHandlers(record)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - must not hide the callback's error
            streams.show(exceptions.format_exception(error))

    if on_worker():
        write_later(write)
    else:
        write()


def write_later(write: Callable[[], Any]) -> None:
    """Has the thread for it write something, which raises nothing but KeyboardInterrupt."""
    global _writer
    with _lock:
        if _writer is None or not _writer.is_alive():
            _writer = threading.Thread(target=_write_all, name="callbax-log", daemon=True)
            _writer.start()
    _records.put(write)


def _record(
    logger: logging.Logger, message: str, args: Any, exception: BaseException
) -> logging.LogRecord | None:
    """What goes to the logger's handlers, if its level and its filters let it."""
    if logger.disabled or not logger.isEnabledFor(logging.ERROR):
        return None
    trace = exceptions.traceback_of(exception)
    frame = sys._getframe()
    record = logger.makeRecord(
        logger.name,
        logging.ERROR,
        frame.f_code.co_filename,
        frame.f_lineno,
        message,
        args,
        (type(exception), exception, trace),
    )
    try:
        passed: Any = logger.filter(record)  # from Python 3.12 on it may be another record
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - must not hide the callback's error
        streams.show(exceptions.format_exception(error))
        return None
    return record if passed is True else passed or None


def _write_all() -> None:
    while True:
        try:
            _records.get()()
        except KeyboardInterrupt:  # raised by a handler: nobody interrupts this thread
            continue


def _forget_writer() -> None:
    """In a forked child: the writer is the parent's, and so is what it has yet to write."""
    global _writer, _records
    _writer, _records = None, queue.SimpleQueue()


os.register_at_fork(after_in_child=_forget_writer)


def finish_logging() -> None:
    """Waits until what was logged so far is written, but not for ever."""
    if _writer is not None and not on_worker():
        done = threading.Event()
        _records.put(done.set)
        done.wait(_FINISH_SECONDS)
