"""What calls of callbacks cost: statistics, records of each call, and names in JAX's profiles.

The runtime counts only while somebody asks for it (native/observer.h); a call is otherwise what it
would be without.
"""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Iterator
from typing import Any

import jax

from callbax import _native
from callbax._runtime import threads

_TOTALS, _RECORDS, _ANNOTATIONS = 1, 2, 4
_NANO = 1e-9

_lock = threads.new_lock()
# Guarded by it:
_watchers = {_TOTALS: 0, _RECORDS: 0, _ANNOTATIONS: 0}
_recordings: list[Recording] = []


def _watch(what: int, change: int) -> None:
    """One watcher more or less. The lock is held."""
    _watchers[what] += change
    _native.watch_calls(sum(bit for bit, count in _watchers.items() if count), _annotate)


@dataclasses.dataclass(frozen=True)
class CallStatistics:
    """What the calls of one callback cost, as `callbax.statistics` counts it.

    Attributes:
      name: the function, with its file and line.
      calls: how often it was called; each lane of a batch counts that is a call of its own.
      seconds: with the GIL: to make its arguments, in the function, and to take its results.
      waiting: seconds in which a call waited for the GIL.
      bytes_in: of its arguments.
      bytes_out: of its results.
      errors: how many calls by XLA failed.

    >>> import jax, numpy as np, callbax as cb
    >>> sine = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))
    >>> with cb.statistics() as statistics:
    ...     _ = sine(np.float32(1)).block_until_ready()
    >>> (of_sine,) = statistics
    >>> of_sine.calls, of_sine.bytes_in, of_sine.errors
    (1, 4, 0)
    """

    name: str
    calls: int
    seconds: float
    waiting: float
    bytes_in: int
    bytes_out: int
    errors: int


class Statistics:
    """What calls cost, by callback, while its `with` block runs; `callbax.statistics` makes it.

    Iterating over it gives a `CallStatistics` for each; as text it is a table.

    >>> import jax, numpy as np, callbax as cb
    >>> with cb.statistics() as statistics:
    ...     _ = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))(np.float32(1)).block_until_ready()
    >>> [one.calls for one in statistics]
    [1]
    """

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}
        self._found: tuple[CallStatistics, ...] | None = ()

    def __enter__(self) -> Statistics:
        with _lock:
            if self._found is None:
                raise RuntimeError("these statistics count already: statistics() makes others")
            _watch(_TOTALS, 1)
            self._before = {name: numbers for name, _, numbers in _native.call_totals(False)}
            self._found = None
        return self

    def __exit__(self, *error: object) -> None:
        with _lock:
            if self._found is not None:
                raise RuntimeError("no block of these statistics has begun, or it has ended")
            _watch(_TOTALS, -1)
            self._found = self._read(forget=not _watchers[_TOTALS])

    @property
    def callbacks(self) -> tuple[CallStatistics, ...]:
        """One for each callback that was called, the costliest first; inside the block, so far."""
        return self._read() if self._found is None else self._found

    def _read(self, *, forget: bool = False) -> tuple[CallStatistics, ...]:
        sums: dict[str, list[int]] = {}
        for name, target, numbers in _native.call_totals(forget):
            before = self._before.get(name, (0,) * len(numbers))
            sum_ = sums.setdefault(str(target), [0] * len(numbers))
            for i, (new, old) in enumerate(zip(numbers, before, strict=True)):
                sum_[i] += new - old
        found = [
            CallStatistics(name, calls, python * _NANO, waiting * _NANO, read, written, errors)
            for name, (calls, errors, python, waiting, read, written) in sums.items()
            if calls
        ]
        return tuple(sorted(found, key=lambda one: -one.seconds))

    def __iter__(self) -> Iterator[CallStatistics]:
        return iter(self.callbacks)

    def __str__(self) -> str:
        heads = ("callback", "calls", "seconds", "waiting", "bytes in", "bytes out", "errors")
        rows = [heads] + [
            tuple(f"{x:.6f}" if isinstance(x, float) else str(x) for x in dataclasses.astuple(one))
            for one in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        )

    __repr__ = __str__  # where an interpreter shows it


def statistics() -> Statistics:
    """Counts what callbacks cost, for the `with` block of what it returns.

    Calls of the runtime count when they end, on whatever thread; wait for results and effects inside
    the block. Calls of compiled loops (`ufunc`, `native`) have no Python in them and do not count,
    except kernels; neither do debug callbacks outside of programs, which are called directly. Blocks
    may be nested, and used on several threads: each counts all calls.

    Returns:
      A `Statistics`: iterate over it, or print it as a table.

    >>> import jax, numpy as np, callbax as cb
    >>> sine = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))
    >>> with cb.statistics() as statistics:
    ...     for _ in range(3):
    ...         _ = sine(np.float32(1)).block_until_ready()
    >>> [(one.calls, one.bytes_in, one.errors) for one in statistics]
    [(3, 12, 0)]
    """
    return Statistics()


@dataclasses.dataclass(frozen=True)
class CallRecord:
    """One call by XLA, as `callbax.record_calls` has it: of a function, or of all lanes of a batch.

    Attributes:
      name: the function, with its file and line.
      flavour: the public function that called it.
      thread: the operating system's number, as of `threading.get_native_id()`.
      run: a number of the program's run on several devices; None on one, which XLA does not number.
      begin: in seconds, as of `time.monotonic()`.
      end: likewise.
      waiting: seconds in which it waited for the GIL.
      seconds: those with the GIL.
      calls: of the function: 1, or the number of lanes.
      bytes_in: of the arguments.
      bytes_out: of the results.
      failed: whether it raised, or its result did not fit.

    >>> import jax, numpy as np, callbax as cb
    >>> sine = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))
    >>> with cb.record_calls() as recording:
    ...     _ = sine(np.float32(1)).block_until_ready()
    >>> (record,) = recording.calls
    >>> record.bytes_in, record.bytes_out, record.begin <= record.end
    (4, 4, True)
    """

    name: str
    flavour: str
    thread: int
    run: int | None
    begin: float
    end: float
    waiting: float
    seconds: float
    calls: int
    bytes_in: int
    bytes_out: int
    failed: bool


class Recording:
    """The calls in its `with` block; `callbax.record_calls` makes it.

    Attributes:
      calls: a `CallRecord` for each, in the order in which they ended. Complete when the block has ended.
      lost: how many calls were not kept, because the limit was reached.

    >>> import jax, numpy as np, callbax as cb
    >>> with cb.record_calls() as recording:
    ...     _ = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))(np.float32(1)).block_until_ready()
    >>> [one.name for one in recording.calls], recording.lost
    (['sin'], 0)
    """

    def __init__(self, limit: int):
        self.calls: list[CallRecord] = []
        self.lost = 0
        if not hasattr(limit, "__index__"):
            raise TypeError(f"limit={limit!r} is not an integer, as in `with record_calls(1000):`")
        self._limit = operator.index(limit)
        if self._limit < 0:
            raise ValueError(f"limit={limit} is negative")

    def __repr__(self) -> str:
        return f"<callbax.Recording of {len(self.calls)} calls, {self.lost} lost>"

    def __enter__(self) -> Recording:
        with _lock:
            if self in _recordings:
                raise RuntimeError("this recording runs already: record_calls() makes another")
            _distribute()
            _recordings.append(self)
            _watch(_RECORDS, 1)
            most = max(recording._limit for recording in _recordings)
            _native.limit_records(min(most, sys.maxsize))
        return self

    def __exit__(self, *error: object) -> None:
        with _lock:
            if self not in _recordings:
                raise RuntimeError("no block of this recording has begun, or it has ended")
            _watch(_RECORDS, -1)
            _distribute()
            _recordings.remove(self)

    def _take(self, records: list[CallRecord], lost: int) -> None:
        room = max(0, self._limit - len(self.calls))
        self.calls += records[:room]
        self.lost += lost + len(records[room:])


def _distribute() -> None:
    """Hands what the runtime has recorded to all recordings. The lock is held."""
    taken, lost = _native.take_records()
    records = [_record(*fields) for fields in taken]
    for recording in _recordings:
        recording._take(records, lost)


def _record(
    target: Any, flavour: str, thread: int, run: int | None, begin: int, end: int, numbers: Any
) -> CallRecord:
    calls, errors, python, waiting, read, written = numbers
    times = (begin * _NANO, end * _NANO, waiting * _NANO, python * _NANO)
    sizes = calls, read, written
    return CallRecord(str(target), flavour, thread, run or None, *times, *sizes, bool(errors))


def record_calls(limit: int = 1_000_000) -> Recording:
    """Records each call of a callback, for the `with` block of what it returns.

    What counts as a call is what counts for `statistics`. A record takes some 200 bytes.

    Args:
      limit: how many are kept; later ones are counted as `lost`.

    Returns:
      A `Recording`: its `calls` are the records.

    Raises:
      TypeError, ValueError: `limit` is not an integer, or negative.

    >>> import jax, numpy as np, callbax as cb
    >>> sine = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))
    >>> with cb.record_calls() as recording:
    ...     _ = sine(np.float32(1)).block_until_ready()
    >>> [(call.flavour, call.calls, call.failed) for call in recording.calls]
    [('pure_callback', 1, False)]
    """
    return Recording(limit)


# -- profiles of JAX's -----------------------------------------------------------------------------
def profile_changed(is_taken: bool) -> None:
    """Has each call show under its name while JAX takes a profile."""
    with _lock:
        _watch(_ANNOTATIONS, int(is_taken) - _watchers[_ANNOTATIONS])


def _annotate(target: Any) -> Any:
    annotation = jax.profiler.TraceAnnotation(str(target))
    annotation.__enter__()
    return annotation
