"""Lanes over an executor of the user's: any `concurrent.futures.Executor`, or a factory of them.

Lanes go out in chunks, several for each worker, and results are put where they belong as they come.
What a lane raises comes back as a value; what a future raises is therefore the executor's own failure,
and becomes an ExecutorError that says which lanes were concerned, and what to do.

Waiting for futures holds no lock and no GIL. An interrupt cancels what has not begun.
"""

from __future__ import annotations

import concurrent.futures
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from callbax._external import portable
from callbax._external.lanes import Batch, InTurn
from callbax._external.portable import Chunk, Outcome, Portable
from callbax._host import offers
from callbax._runtime.errors import ExecutorError

_CHUNKS_PER_WORKER = 4
_CHUNKS = 64  # for executors that do not say how many workers they have
# A thread that waits for a lock gets an interrupt that was sent to it only when it wakes.
_WAKE_SECONDS = 0.1


EXECUTOR = "executor"


class ExecutorSlot:
    """The executor of an external function; a runner of lanes (see lanes.py).

    Compiled programs refer to this object, so that the executor can be replaced under them.
    """

    elsewhere = True

    def __init__(self, executor: Executor | Callable[[], Executor], where: str):
        self._where = where
        self._lock = threading.Lock()
        self._executor: Executor | None = None  # guarded by _lock
        self._factory: Callable[[], Executor] | None = None  # guarded by _lock
        self._key: Any = None
        self.replace(executor)

    def offer(self, function: Callable[..., Any], given: str | None) -> offers.Offer:
        """Lets programs name it as that of an external function, while the offer lives."""
        self._key = (EXECUTOR, id(function), given)
        return offers.Offer(self._key, self)

    @property
    def name(self) -> str:
        try:
            return EXECUTOR if offers.find(self._key, "", "") is self else ""
        except LookupError:
            return ""

    def __reduce__(self) -> Any:
        # An external function that a lane refers to has no executor in the worker's process.
        return InTurn, ()

    def replace(self, executor: Executor | Callable[[], Executor]) -> None:
        """Later calls use that executor; those that run keep theirs."""
        if isinstance(executor, Executor):
            with self._lock:
                self._executor, self._factory = executor, None
        elif callable(executor) and not isinstance(executor, type):
            with self._lock:
                self._executor, self._factory = None, executor
        else:
            raise TypeError(self._not_an_executor("executor=", executor))

    def get(self) -> Executor:
        """The executor. A factory is called when there is none, or when its last one broke."""
        with self._lock:
            if self._executor is None:
                assert self._factory is not None
                made = self._factory()
                if not isinstance(made, Executor):
                    raise TypeError(self._not_an_executor("the factory executor= returned", made))
                self._executor = made
            return self._executor

    def discard(self, executor: Executor) -> bool:
        """Forgets an executor that cannot be used any more. Whether the factory will make another."""
        with self._lock:
            if self._factory is None:
                return self._executor is not executor  # somebody has replaced it already
            if self._executor is executor:
                self._executor = None
        executor.shutdown(wait=False)
        return True

    def run(self, batch: Batch) -> None:
        executor = self.get()
        if any(executor is other for other in portable.working_for.get()):
            # This is one of its threads. The others may wait likewise, and then none would be left.
            InTurn().run(batch)
            return
        try:
            _Run(executor, batch).finish()
        except _NotBegun as error:
            if not self.discard(executor):
                raise ExecutorError(_refused(executor, batch, error.reason)) from error.reason
            # A factory's executor broke since the last call, and no lane has begun.
            _Run(self.get(), batch).finish()
        except ExecutorError as error:
            if isinstance(error.__cause__, BrokenExecutor) and self.discard(executor):
                error.add_note("callbax: the next call uses a fresh executor")
            raise

    def _not_an_executor(self, what: str, value: Any) -> str:
        hint = (
            "; of a Dask client pass client.get_executor()"
            if type(value).__module__.startswith("distributed")
            else ""
        )
        return (
            f"external function {self._where}: {what} must be a concurrent.futures.Executor (or a "
            "function without arguments that makes one), such as ProcessPoolExecutor("
            f"mp_context=multiprocessing.get_context('spawn')), but got {value!r} of type "
            f"{type(value).__name__}{hint}"
        )


class _NotBegun(ExecutorError):
    """The executor took nothing at all, so that nothing has run."""

    def __init__(self, reason: Exception):
        super().__init__(str(reason))
        self.reason = reason


class _Run:
    """The lanes of one batch, on their way."""

    def __init__(self, executor: Executor, batch: Batch):
        self._executor = executor
        self._batch = batch
        by_process = isinstance(executor, concurrent.futures.ProcessPoolExecutor)
        self._task = Portable(batch.host_call, executor, by_value=not by_process)
        self._pending: dict[Future[Outcome], Sequence[int]] = {}
        self._error: tuple[int, BaseException] | None = None  # of the first lane known to fail

    def finish(self) -> None:
        """Sends all lanes, takes all results; raises what the first failing lane has raised."""
        try:
            self._send()
            while self._pending:
                done, _ = concurrent.futures.wait(
                    self._pending, _WAKE_SECONDS, concurrent.futures.FIRST_COMPLETED
                )
                # Those that a shutdown takes back are cancelled without notice.
                done |= {future for future in self._pending if future.cancelled()}
                for future in sorted(done, key=lambda future: self._pending[future][0]):
                    self._take(future, self._pending.pop(future))
                self._cancel(after=self._error[0] if self._error else None)
        except BaseException:
            self._task.is_stopped = True
            self._cancel(after=-1)
            raise
        if self._error is not None:
            raise self._error[1]

    def _send(self) -> None:
        try:
            if not self._task.by_value:
                self._task.pickled  # noqa: B018 - clearer here than in a thread of the pool
            for lanes in _chunks(self._batch.live, self._executor):
                operands = [operand.part(lanes) for operand in self._batch.operands]
                chunk = Chunk(len(lanes), operands, self._batch.call.results)
                self._pending[self._executor.submit(self._task, chunk)] = lanes
        except pickle.PicklingError as error:
            raise ExecutorError(
                f"{self._batch.describe(self._batch.live)} could not be sent to the executor "
                f"{_name(self._executor)}: {error}"
            ) from (error.__cause__ or error)  # whose text it has
        except (RuntimeError, BrokenExecutor) as error:
            if not self._pending:
                raise _NotBegun(error) from error
            raise ExecutorError(_refused(self._executor, self._batch, error)) from error

    def _take(self, future: Future[Outcome], lanes: Sequence[int]) -> None:
        try:
            values, failure = future.result()
        except BaseException as error:
            raise ExecutorError(self._failed(error, lanes)) from error
        if failure is None and len(values) != len(lanes):
            which, name = self._batch.describe(lanes), _name(self._executor)
            raise ExecutorError(f"{which} did not all come back from the executor {name}")
        for lane, value in zip(lanes, values, strict=False):
            try:
                self._batch.put(lane, value)
            except Exception as error:  # noqa: BLE001 - kept, and raised if no earlier lane fails
                self._keep(lane, error)
                return
        if failure is None:
            return
        if failure.position is None:
            raise ExecutorError(
                f"{self._batch.describe(lanes)} could not be run by the executor "
                f"{_name(self._executor)}: the worker could not get hold of the function. Make sure "
                "that the module that defines it can be imported there, and that what it does at "
                "import does not depend on __name__ == '__main__'."
            ) from failure.error
        lane = lanes[failure.position]
        self._batch.name_lane(failure.error, lane)
        self._keep(lane, failure.error)

    def _keep(self, lane: int, error: BaseException) -> None:
        if self._error is None or lane < self._error[0]:
            self._error = (lane, error)

    def _cancel(self, after: int | None) -> None:
        """Takes back the chunks of later lanes, as far as they have not begun."""
        if after is None:
            return
        for future, lanes in list(self._pending.items()):
            if lanes[0] > after:
                future.cancel()
                del self._pending[future]

    def _failed(self, error: BaseException, lanes: Sequence[int]) -> str:
        which = self._batch.describe(lanes)
        executor = _name(self._executor)
        if isinstance(error, BrokenExecutor):
            return (
                f"{which} did not come back: a worker of the executor {executor} died ({error}). It "
                "was killed, ran out of memory, crashed, or could not start (a program that starts "
                "processes by 'spawn' must guard its own start by `if __name__ == '__main__':`). "
                "The executor is broken; assign a fresh one to the `executor` of the external "
                "function, or make it with a factory, executor=lambda: ..., which is called again."
            )
        if isinstance(error, concurrent.futures.CancelledError):
            return (
                f"{which} did not come back: the executor {executor} cancelled them, as one does "
                "that is shut down. Keep it open until the results are there (block_until_ready)."
            )
        return (
            f"{which} did not come back: the executor {executor} failed with "
            f"{type(error).__name__}: {error}"
        )


def _refused(executor: Executor, batch: Batch, error: Exception) -> str:
    return (
        f"{batch.describe(batch.live)} could not be sent: the executor {_name(executor)} takes no "
        f"work: {error}. It has been shut down, or is broken; assign a fresh one to the `executor` of "
        "the external function, or make it with a factory, executor=lambda: ..., which is called "
        "again."
    )


def _name(executor: Executor) -> str:
    return type(executor).__name__


def _chunks(lanes: Sequence[int], executor: Executor) -> Iterator[Sequence[int]]:
    workers = getattr(executor, "_max_workers", None)  # of threads, processes, and loky
    chunks = _CHUNKS_PER_WORKER * workers if isinstance(workers, int) else _CHUNKS
    size = -(-len(lanes) // chunks)
    for start in range(0, len(lanes), size):
        yield lanes[start : start + size]
