"""The thread that reads batches ahead, and the bounded queue between it and the programs that take them.

Guarantees: each batch is taken once, in order, or dropped by `restart` and `end`; at most `limit` are
read and not taken; what reading raises is raised by the take of that batch, and by each one after it.
Nobody who takes waits for a thread that does not read any more.

Assumption: the source is read by one thread at a time. It is the prefetching one alone; without it
(limit 0), who takes reads, and holds `_turn` meanwhile. No other lock is held while the source runs, so
`end`, which a garbage collection or the end of the process may call in the middle of anything, never
waits for the source.

The race avoided: a read that began before a restart ends after it. It belongs to the reader with which it
began, and counts only if that is still the one.
"""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from callbax.tools._places import add_note

_LOOK_UP_SECONDS = 0.05  # how often one who waits lets Ctrl-C come through
_EXIT_SECONDS = 1.0  # how long the end of the process waits for reads

Begin = Callable[[int], Iterator[Any]]
Prepare = Callable[[int, Any], list[Any]]


class Reader:
    """One pass over the source from a position on."""

    def __init__(self, name: str, begin: Begin, prepare: Prepare, position: int):
        self._name = name
        self._begin = begin
        self._prepare = prepare
        self._number = position  # of the batch that comes next
        self._iterator: Iterator[Any] | None = None

    def read(self) -> tuple[int, list[Any]] | None:
        """The next batch, with its number; None at the end."""
        try:
            if self._iterator is None:
                self._iterator = self._begin(self._number)
            for batch in self._iterator:
                prepared = self._prepare(self._number, batch)
                self._number += 1
                return self._number - 1, prepared
        except BaseException as error:
            add_note(error, f"callbax: raised where {self._name} read batch {self._number}")
            raise
        return None

    def anew(self, position: int) -> Reader:
        return Reader(self._name, self._begin, self._prepare, position)


class Prefetcher:
    """A queue of batches that a thread fills, or, with a limit of 0, whoever takes from it.

    Attributes:
      name: of the source, in messages.
      position: how many batches have been taken, or the number from which they are.
    """

    def __init__(self, name: str, begin: Begin, prepare: Prepare, limit: int):
        self.name = name
        self.position = 0
        self._limit = limit
        self._start_anew(Reader(name, begin, prepare, 0))
        _prefetchers.add(self)

    def _start_anew(self, reader: Reader) -> None:
        # Reentrant, as a garbage collection may call `end` in the middle of anything.
        self._changed = threading.Condition(threading.RLock())
        self._turn = threading.RLock()
        # All that follows is guarded by _changed.
        self._reader: Reader | None = reader  # None when closed
        self._batches: deque[tuple[int, list[Any]]] = deque()  # read, and not taken
        self._finished = False  # nothing comes after these
        self._failure: BaseException | None = None  # or this
        self._thread: threading.Thread | None = None

    # -- for programs ------------------------------------------------------------------------------
    def take(self) -> list[Any] | None:
        """The next batch; None at the end.

        Raises:
          RuntimeError: it is closed.
          The exception of the source.
        """
        return self._wait_for_batch(self._pop)

    def first(self) -> list[Any] | None:
        """The batch that `take` returns next; it stays there."""
        return self._wait_for_batch(lambda: self._batches[0][1])

    def _wait_for_batch(self, get: Callable[[], list[Any]]) -> list[Any] | None:
        if not self._limit:
            with self._turn:
                while not self._is_ready():
                    self._read()
                with self._changed:
                    return get() if self._batches else None
        with self._changed:
            while not self._is_ready():
                self._changed.wait(_LOOK_UP_SECONDS)
            return get() if self._batches else None

    def _is_ready(self) -> bool:
        """Whether there is a batch, or the end; raises what is in the way."""
        with self._changed:
            self.check_open()
            while self._batches and self._batches[0][0] < self.position:
                self._batches.popleft()  # taken, when an interrupt came
            if self._batches:
                return True
            if (failure := self._failure) is not None:
                if not isinstance(failure, Exception):  # an interrupt is for one program only
                    self._failure = RuntimeError(
                        f"reading batch {self.position} of {self.name} was interrupted "
                        f"({type(failure).__name__}); restart() begins anew"
                    )
                raise failure
            return self._finished

    def _pop(self) -> list[Any]:
        number, batch = self._batches[0]
        self.position = number + 1
        self._batches.popleft()
        # Not for each batch: to wake the thread costs more than a small one.
        if len(self._batches) <= self._limit // 2:
            self._changed.notify_all()
        return batch

    # -- for the user ------------------------------------------------------------------------------
    def check_open(self) -> None:
        if self._reader is None:
            raise RuntimeError(f"{self.name} is closed, but was asked for another batch")

    def restart(self, position: int) -> None:
        """Drops what has been read, and reads from there on."""
        with self._changed:
            self.check_open()
            assert self._reader is not None
            self._reader = self._reader.anew(position)
            self._batches.clear()
            self._finished, self._failure = False, None
            self.position = position
            self._start_thread()
            self._changed.notify_all()

    def start(self) -> None:
        """Begins to read ahead."""
        with self._changed:
            self._start_thread()

    def end(self) -> None:
        """Drops everything, and lets the thread end; does not wait for it."""
        with self._changed:
            self._reader = None
            self._batches.clear()
            self._changed.notify_all()

    def join(self, seconds: float | None = None) -> None:
        """Waits until the thread has ended."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    # -- the thread --------------------------------------------------------------------------------
    def _start_thread(self) -> None:
        if self._limit and self._thread is None and self._reader is not None:
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run, args=(self._run,), name=self.name, daemon=True
            )
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while self._wait_for_room():
            self._read()

    def _wait_for_room(self) -> bool:
        """Sleeps until a batch may be read; returns False at the end of the thread."""
        with self._changed:
            while self._reader is not None and (
                self._finished or self._failure is not None or len(self._batches) >= self._limit
            ):
                self._changed.wait()
            return self._reader is not None

    def _read(self) -> None:
        reader = self._reader
        if reader is None:
            return
        batch, failure = None, None
        try:
            batch = reader.read()
        except BaseException as error:  # noqa: BLE001 - who takes this batch raises it
            failure = error
        with self._changed:
            if reader is self._reader:
                if batch is not None:
                    self._batches.append(batch)
                else:
                    self._finished, self._failure = failure is None, failure
                self._changed.notify_all()

    # -- fork --------------------------------------------------------------------------------------
    def after_fork(self) -> None:
        """In the child: there is no thread, and the source is in the middle of something."""
        _of_the_parent.append(self.__dict__.copy())
        if (reader := self._reader) is not None:
            self._start_anew(reader.anew(self.position))
            self._failure = RuntimeError(
                f"{self.name} was made before this process was forked, and its batches go to the parent. "
                f"In the child, restart({self.position}) begins anew, or make another Batches"
            )


_prefetchers: weakref.WeakSet[Prefetcher] = weakref.WeakSet()
_of_the_parent: list[Any] = []  # files and generators, which must not be touched


def _end_all() -> None:
    """No thread is in the source when the interpreter goes, unless that does not return."""
    living = list(_prefetchers)
    for prefetcher in living:
        prefetcher.end()
    deadline = time.monotonic() + _EXIT_SECONDS
    for prefetcher in living:
        prefetcher.join(max(0.0, deadline - time.monotonic()))


def _after_fork_in_child() -> None:
    for prefetcher in list(_prefetchers):
        prefetcher.after_fork()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
