"""The thread that writes a log's rows, and the bounded queue that feeds it.

Guarantees: a row that has been appended to `rows` is written once, in order, or kept, or counted as
dropped. Nobody waits for ever for a target that fails, and the thread never waits for itself.

The program appends without a lock, which is one step under the GIL, and then looks whether the thread
is idle. The thread says that it is idle, and then looks for rows once more. So one of the two sees the
other. While rows come, the thread gathers them for a moment, or until the queue is half full: one that
wakes for each row would take the GIL from the program each time.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import jax

import callbax
from callbax.tools._log_queue import RowQueue
from callbax.tools._log_rows import Block, Columns, Row
from callbax.tools._log_targets import LogError, Target

_GATHER_SECONDS = 0.1
_LOOK_UP_SECONDS = 0.05  # how often one who waits lets Ctrl-C come through
_MOST_AT_ONCE = 4096
_MOST_BYTES = 2**28


class Writer:
    """A bounded queue of rows, and the thread that writes them.

    Attributes:
      name: in messages.
      rows: what waits to be written.
      limit: how many may wait.
      dropped: how many did not fit.
    """

    def __init__(self, opens: Callable[[], Target], name: str, capacity: int, drops: bool):
        self.name = name
        self.rows = RowQueue()
        self._columns: list[Columns] = []  # of the calls in programs
        self.limit = self._capacity = capacity
        self.dropped = 0
        self._drops = drops
        self._opens = opens
        self._ending = self._closed = False
        self._remove_from_barrier = callbax.on_barrier(self._flush_at_barrier)
        # Earlier at exit than what the target has registered when it was made, before this log.
        atexit.register(self._write_all)
        _writers.add(self)
        self.start_anew()

    def start_anew(self) -> None:
        """Without a thread, and without rows."""
        # Reentrant, as a garbage collection may call `end` in the middle of anything.
        self._changed = threading.Condition(threading.RLock())
        self.rows.idle = True
        self.rows.attend_above = self.limit
        self._thread: threading.Thread | None = None
        self._target: Target | None = None
        self._blocks: list[Block] = []  # taken from the queue, and not written yet
        self._writing = False  # these belong to the thread
        self._failure: BaseException | None = None  # nothing is written until a flush raises it
        self._told: tuple[int, int] | None = None  # which rows were left when a failure was raised
        self._asked = self._done = 0  # how often all rows were to be written, and have been
        self._cpu: jax.Device | None = None  # see _where_callbacks_compute

    # -- in the program --------------------------------------------------------------------------
    def add_call(self, columns: Columns) -> int:
        """A number for a call in a program, to append its rows with."""
        with self._changed:
            self._columns.append(columns)
            return self.rows.add_call(columns.number_dtypes)

    def attend(self) -> None:
        """Wakes the thread if there are rows enough, and makes room if there is none."""
        device = jax.config.jax_default_device
        with self._changed:
            if isinstance(device, jax.Device) and device.platform == "cpu":
                self._cpu = device
            if self._closed:
                self.rows.drop(len(self.rows))
                raise LogError(f"{self.name} is closed, but was asked to log another row")
            if self._failure is None:
                self._wake()
            if self._drops:
                too_many = max(0, len(self.rows) - self.limit)
                self.rows.drop(too_many)
                self.dropped += too_many
            elif threading.current_thread() is not self._thread:
                self._wait_for_room()

    def _wait_for_room(self) -> None:
        while len(self.rows) > self.limit:
            if self._failure is not None:
                raise self._error(self._failure) from self._failure
            self._asked += 1
            self._changed.notify_all()
            self._changed.wait(_LOOK_UP_SECONDS)

    def _wake(self) -> None:
        self.rows.idle = False
        self.rows.attend_above = self.limit
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # as when the process is ending
                self._thread = None
                self._write()
        self._changed.notify_all()

    # -- for the user ----------------------------------------------------------------------------
    def flush(self) -> None:
        """Waits until the rows so far are written; raises what the target has raised since the last."""
        failed_before = self._failure
        failed_now = self._write_all()  # which tries again
        error = failed_before or failed_now
        self._told = None if error is None else (self._left(), self.dropped)
        if error is not None:
            self._failure = None
            raise self._error(error) from error

    def _flush_at_barrier(self) -> None:
        """As `flush`, but what rows have failed with is raised once: these are tried again quietly."""
        if any([writer._thread is threading.current_thread() for writer in list(_writers)]):
            return  # a target that waits for effects; another log's may wait for it
        if self._told != (self._left(), self.dropped):
            self.flush()
        elif self._write_all() is not None:
            self._failure = None

    def _left(self) -> int:
        return len(self.rows) + sum(map(len, self._blocks))

    def _write_all(self) -> BaseException | None:
        """Waits until the rows so far are written, or the target has failed again; returns why."""
        with self._changed:
            if threading.current_thread() is self._thread:
                return None
            if not self.rows and not self._blocks and not self._writing:
                return None
            self._failure = None
            self._asked += 1
            asked = self._asked
            self._wake()
            while self._done < asked and self._failure is None:
                self._changed.wait(_LOOK_UP_SECONDS)
            return self._failure

    def discard(self) -> list[Row]:
        """Gives up the rows that are not written; returns them."""
        with self._changed:
            while self._writing and threading.current_thread() is not self._thread:
                self._changed.wait(_LOOK_UP_SECONDS)
            self._take(len(self.rows))
            rows = [row for block in self._blocks for row in block.dicts()]
            self._blocks = []
            return rows

    def close(self) -> None:
        """Flushes, and ends."""
        self.flush()
        self.end()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
            self.flush()  # raises what closing the target has raised

    def end(self) -> None:
        """Lets the thread write what is left, close the target, and end."""
        with self._changed:
            self._ending = True
            if self._thread is not None or self.rows:
                self._wake()
            else:
                self._finish()

    def _error(self, failure: BaseException) -> LogError:
        left = self._left()
        kept = "all rows have been written since"
        if left:
            rows = f"{left} row{'s' * (left > 1)} kept"
            kept = f"{rows}: flush() tries again, discard() gives up and returns them"
        what = f"{type(failure).__name__}: {failure}"
        return LogError(f"{self.name} could not write ({what}); {kept}")

    # -- the thread ------------------------------------------------------------------------------
    def _run(self) -> None:
        while self._gather():
            self._write()
        self._finish()

    def _gather(self) -> bool:
        """Sleeps until there is something to write; returns False at the log's end."""
        with self._changed:
            while self._failure is not None or not (self.rows or self._blocks):
                if self._failure is None and self._asked > self._done:
                    self._done = self._asked  # asked for while the last rows were being written
                    self._changed.notify_all()
                if self._ending:
                    return False
                self.rows.idle = self._failure is None
                if self.rows.idle and self.rows:
                    continue  # a program has seen the thread busy, and does not wake it
                self._changed.wait()
            self.rows.idle = False
            half = self.rows.attend_above = self.limit // 2
            self._changed.wait_for(
                lambda: self._ending or len(self.rows) > half or self._asked > self._done,
                _GATHER_SECONDS,
            )
            self.rows.attend_above = self.limit
            return True

    def _write(self) -> None:
        """Writes all rows that are there when it begins."""
        with self._changed:
            asked, left = self._asked, len(self.rows)
            self._writing = True
        failure = None
        try:
            with self._where_callbacks_compute():
                if self._target is None:
                    self._target = self._opens()
                while self._blocks or left > 0:
                    if not self._blocks:
                        taken = self._take(min(left, _MOST_AT_ONCE))
                        left = left - taken if taken else 0  # others were dropped meanwhile
                    self._target.write(self._blocks)
        except BaseException as error:  # noqa: BLE001 - the next flush raises it
            failure = error
        with self._changed:
            self._writing = False
            self._failure = failure
            if failure is None:
                self._done, self._told = asked, None
            self._changed.notify_all()

    def _where_callbacks_compute(self) -> contextlib.AbstractContextManager[Any]:
        """For a target that uses JAX: programs that wait for room hold their own device's places."""
        return contextlib.nullcontext() if self._cpu is None else jax.default_device(self._cpu)

    def _take(self, count: int) -> int:
        """Takes the oldest rows, at least so many if there are; returns how many."""
        taken, largest = 0, 1
        while taken < count and (rows := self.rows.take()) is not None:
            try:
                largest = max(largest, rows.row_bytes())
                self._blocks += self._columns[rows.call].blocks(rows)
            except BaseException:  # as for want of memory
                self.rows.put_back(rows)
                raise
            taken += len(rows)
        with self._changed:
            self.limit = max(1, min(self._capacity, _MOST_BYTES // largest))
            self.rows.attend_above = self.limit
            self._changed.notify_all()  # there is room
        return taken

    def _finish(self) -> None:
        """Closes the target. What could not be written stays, for the next barrier."""
        target, self._target = self._target, None
        failure = self._failure
        if target is not None:
            try:
                target.close()
            except Exception as error:  # noqa: BLE001 - the next barrier raises it
                failure = failure or error
        with self._changed:
            self._thread, self._failure = None, failure
            self._closed = failure is None and not self._blocks and not self.rows
            self.rows.idle = self._closed
            if self._closed:
                self._remove_from_barrier()
                atexit.unregister(self._write_all)
            self._changed.notify_all()


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
_of_the_parent: list[Any] = []  # open files and connections, which must not be touched


def _after_fork_in_child() -> None:
    """The rows that wait are the parent's. A log starts anew, when it is used."""
    for writer in _writers:
        _of_the_parent.append(writer.__dict__.copy())
        writer.rows.drop(len(writer.rows))
        writer.start_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)
