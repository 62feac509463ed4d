"""Lanes over threads: one pool for the process, in which the calling thread works too.

Guarantees:

* The caller takes lanes as the pool's threads do, and waits only for lanes that some thread has
  begun. So a lane may itself run lanes over the pool, to any depth: what a thread waits for is always
  below it in the tree of calls, and no circle of waiting threads can arise. A pool without a free
  thread costs speed, never progress.
* Lanes begin in order. Once one has failed, none after it begins; those before it are finished, so
  that the error is that of the first lane that fails, as if they had run one by one.
* When `run_lanes` returns or raises an Exception, no thread runs a lane any more or refers to its
  functions. An interrupt (any other BaseException, in the calling thread) does not wait for lanes that
  run, but for `prepare`, the only part of them that may read memory which is not theirs.
* Threads are daemons: they end with the process, whatever they do. A forked child starts anew.
  But Python ends a daemon where it next wants the GIL, and in C++ code, such as JAX's, that aborts the
  process. So the end of the process waits for those that take part in work, if not for ever.

The races avoided: a thread that is asked for help may come when all is done, or never. It finds out
under the lock of the work, in the same step in which it takes lanes. And a thread may begin to read
just when an interrupt makes the memory go: it says that it reads before it looks whether it may, and
the interrupted thread says that nobody may before it looks who reads.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from callbax._runtime import surroundings

# So many pieces of work for each thread, while much is left: few locks, yet nobody waits long.
_PIECES = 4
# A thread that waits for a lock gets an interrupt that was sent to it only when it wakes.
_WAKE_SECONDS = 0.1
_READ_SECONDS = 0.001


def cores() -> int:
    """How many of the machine's cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_lanes(
    prepare: Callable[[int], Any],
    call: Callable[[int, Any], None],
    lanes: Sequence[int],
    *,
    call_reads: bool = False,
) -> None:
    """Does `call(lane, prepare(lane))` for each lane, over the pool and the calling thread.

    The caller's settings are those of each lane (`surroundings.Caller`).
    Raises what the first lane that fails has raised.

    Args:
      call_reads: `call` reads the memory that `prepare` reads, too.
    """
    threads = min(cores(), len(lanes))
    work = _Work(prepare, call, lanes, threads, call_reads)
    for _ in range(threads - 1):
        _pool.ask(work)
    error = work.finish()
    try:
        if error is not None:
            raise error
    finally:
        del error  # its traceback refers to this frame


class _Work:
    """Lanes that threads take in turn."""

    def __init__(
        self, prepare: Any, call: Any, lanes: Sequence[int], threads: int, call_reads: bool
    ):
        self._functions: Any = (prepare, call)  # None when all is done
        self._lanes = lanes
        self._threads = threads
        self._call_reads = call_reads
        self._readers: set[int] = set()  # threads; each changes its own entry only
        self._changed = threading.Condition()
        # Guarded by it:
        self._next = 0
        self._end = len(lanes)  # no lane from here on is begun
        self._running = 0  # pieces that are taken and not done
        self._error: BaseException | None = None  # of the lane at _end

    def take_part(self) -> None:
        """Runs lanes until none is left to begin. Errors are kept; only interrupts are raised."""
        while piece := self._take():
            position = piece.start
            try:
                for position in piece:
                    if not self._run(position):
                        break
            except BaseException as error:
                self._fail(position, error)
                if not isinstance(error, Exception):
                    raise
            finally:
                self._put_back()

    def _run(self, position: int) -> bool:
        """Runs a lane, unless it must not begin any more."""
        prepare, call = self._functions
        lane, thread = self._lanes[position], threading.get_ident()
        self._readers.add(thread)
        try:
            if position >= self._end:
                return False
            prepared = prepare(lane)
            if not self._call_reads:
                self._readers.discard(thread)
            call(lane, prepared)
            return True
        finally:
            self._readers.discard(thread)

    def finish(self) -> BaseException | None:
        """In the thread that calls: takes part, waits for the others, returns the first error."""
        try:
            self.take_part()
            with self._changed:
                while self._running:
                    self._changed.wait(_WAKE_SECONDS)
        except BaseException:
            self._end = 0
            while self._readers:
                time.sleep(_READ_SECONDS)
            raise
        error, self._error = self._error, None
        self._functions = None
        return error

    @property
    def is_left(self) -> bool:
        """Whether some lane is yet to begin."""
        return self._next < self._end

    def _take(self) -> range:
        with self._changed:
            left = self._end - self._next
            if left <= 0:
                return range(0)
            start = self._next
            self._next += max(1, left // (_PIECES * self._threads))
            self._running += 1
            return range(start, self._next)

    def _put_back(self) -> None:
        with self._changed:
            self._running -= 1
            if not self._running:
                self._changed.notify_all()

    def _fail(self, position: int, error: BaseException) -> None:
        with self._changed:
            if position < self._end:
                self._end, self._error = position, error


class _Pool:
    """Threads that wait for work; as many as there are cores beside the caller's."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._changed = threading.Condition()
        # Guarded by it:
        self._threads = 0
        self._busy = 0  # threads that take part
        self._closed = False
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask(self, work: _Work) -> None:
        """Some thread that is free, or will be, takes part in the work."""
        self._asked.put((work, surroundings.Caller()))
        with self._changed:
            if self._threads < cores() - 1 and not self._closed:
                name = f"callbax-lanes-{self._threads}"
                try:
                    threading.Thread(target=self._serve, name=name, daemon=True).start()
                except RuntimeError:  # the interpreter shuts down: the caller does it all
                    return
                self._threads += 1

    def _serve(self) -> None:
        while True:
            self._take_part(*self._asked.get())

    def _take_part(self, work: _Work, caller: surroundings.Caller) -> None:
        with self._changed:
            if self._closed or not work.is_left:
                return
            self._busy += 1
        try:
            caller.run(work.take_part)
        except BaseException:  # noqa: BLE001 - kept with the work, whose caller raises it
            return
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """No thread takes part in work any more; waits for those that do, so long at most."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._busy, seconds)


_pool = _Pool()
close = _pool.close
os.register_at_fork(after_in_child=_pool.forget)
