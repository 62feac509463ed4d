"""Objects that host functions leave for their derivative rules, and how long they are kept.

A forward call keeps its object here and returns a *key*, an array that XLA carries to the backward
call as it carries residuals: through batches, loops and other programs. A key that means nothing here
(of another process, of a file, of an object that is gone) is not an error: the backward call computes
the object anew.

Guarantees:

* Objects are kept in *runs* only, that is, while programs that keep objects are called.
* When such a call ends, its objects are let go, except those whose keys are among its results.
  These are kept as long as the arrays with their keys are alive. If other such calls run at the same
  time, the objects wait for those that had begun when they were made.
* An object that its rule has used, and whose key is not in an array, is let go when the same
  function keeps its next one. So a loop under `jax.checkpoint` holds one at a time.
* What a key means never changes. A row of it is a mark of the process, the number of the call, and
  the number of the lane; an object of several lanes is found by just these, in their order.

The race avoided: letting go of an object may run code of the user's, so nothing is let go while the
lock is held; and a garbage collection, which may let go of arrays with keys, may begin anywhere, so the
lock is reentrant.
"""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from callbax._runtime import threads

Shapes: TypeAlias = tuple[tuple[int, ...], ...]

KEY = jax.ShapeDtypeStruct((5,), np.uint32)
_LANE = 4  # the position of the lane's number, after the mark's two words and the call's two


class _Entry:
    """What one key means.

    Attributes:
      function: whose objects they are.
      objects: by the shapes of the arguments that they were made from.
      made: a number of `_numbers`.
      arrays: how many living arrays have the key.
    """

    __slots__ = ("arrays", "function", "made", "objects")

    def __init__(self, function: Hashable, made: int):
        self.function = function
        self.objects: dict[Shapes, Any] = {}
        self.made = made
        self.arrays = 0


_lock = threads.new_lock(reentrant=True)
# Guarded by it:
_numbers = itertools.count(1)
_entries: dict[bytes, _Entry] = {}
_used: dict[Hashable, set[bytes]] = {}  # by function
_runs: set[int] = set()  # those that have not ended, by the number at which they began
_mark = os.urandom(8)


def keep(function: Hashable, value: Any, shapes: Shapes, batch: Sequence[int]) -> np.ndarray:
    """Keeps an object, and returns its key; zeros, which mean nothing, outside of runs.

    Args:
      function: whose object it is.
      shapes: of the arguments that it was made from.
      batch: the shape of the batch, if it was made for one; the key has a row for each lane.
    """
    lanes = math.prod(batch)
    key = np.zeros((*batch, *KEY.shape), KEY.dtype)
    with _lock:
        if not _runs or not lanes:
            return key
        number = next(_numbers)
        name = _mark + number.to_bytes(8, "little")
        dropped = _take(list(_used.get(function, ())))
        entry = _entries[name] = _Entry(function, number)
        entry.objects[shapes] = value
    del dropped
    key[..., :_LANE] = np.frombuffer(name, KEY.dtype)
    key[..., _LANE] = np.arange(lanes).reshape(batch)
    return key


def recall(function: Hashable, key: np.ndarray, shapes: Shapes, compute: Callable[[], Any]) -> Any:
    """The object that `key` means for arguments of these shapes; `compute()` where there is none."""
    name = _name_of(key)
    with _lock:
        entry = _entries.get(name)
        if entry is not None and shapes in entry.objects:
            _note_use(function, name)
            return entry.objects[shapes]
    value = compute()
    with _lock:  # for other lanes, and other calls, of the same run
        if name and _runs:
            entry = _entries.setdefault(name, _Entry(function, next(_numbers)))
            entry.objects[shapes] = value
            _note_use(function, name)
    return value


def run_begins() -> int:
    """Returns what `run_ends` is to be given."""
    with _lock:
        began = next(_numbers)
        _runs.add(began)
    return began


def run_ends(began: int, results: Iterable[Any] = ()) -> None:
    """Lets go of what only that run could use; `results` are those of the program, if it has any."""
    for array in results:
        names = _names_in(array)
        if not names:
            continue
        with _lock:
            names &= _entries.keys()
            for name in names:
                _entries[name].arrays += 1
        weakref.finalize(array, _array_is_gone, names).atexit = False
    with _lock:
        _runs.discard(began)
        dropped = _take(list(_entries), made_before=min(_runs, default=math.inf))
    del dropped


def count() -> int:
    """How many keys mean something."""
    return len(_entries)


def _array_is_gone(names: Iterable[bytes]) -> None:
    with _lock:
        for name in names:
            if name in _entries:
                _entries[name].arrays -= 1
        dropped = _take(names, made_before=min(_runs, default=math.inf))
    del dropped


def _take(names: Iterable[bytes], made_before: float = math.inf) -> list[_Entry]:
    """Takes out those that are in no array. The caller lets go of them, without the lock."""
    taken = []
    for name in names:
        entry = _entries.get(name)
        if entry is not None and not entry.arrays and entry.made < made_before:
            taken.append(_entries.pop(name))
            used = _used.get(entry.function, set())
            used.discard(name)
            if not used:
                _used.pop(entry.function, None)
    return taken


def _note_use(function: Hashable, name: bytes) -> None:
    _used.setdefault(function, set()).add(name)


def _name_of(key: np.ndarray) -> bytes:
    """What is the same in all rows of a key; empty if it is not that of the lanes of one call."""
    rows = key.reshape(-1, KEY.shape[0])
    if not len(rows) or not rows[0, :_LANE].any():
        return b""
    same = (rows[:, :_LANE] == rows[0, :_LANE]).all()
    in_order = (rows[:, _LANE] == np.arange(len(rows))).all()
    return rows[0, :_LANE].tobytes() if same and in_order else b""


def _names_in(array: Any) -> set[bytes]:
    """What may be the names of keys in a program's result."""
    if not isinstance(array, jax.Array) or array.dtype != KEY.dtype or array.ndim == 0:
        return set()
    if array.shape[-1:] != KEY.shape or not array.size:
        return set()
    names: set[bytes] = set()
    for shard in array.addressable_shards:
        rows = np.asarray(shard.data).reshape(-1, KEY.shape[0])
        names.update(row.tobytes() for row in rows[:, :_LANE])
    return names


def _renew_mark() -> None:
    """In a forked child, whose keys must not be taken for the parent's. No run of these is its own."""
    global _mark
    _mark = os.urandom(8)
    _runs.clear()


os.register_at_fork(after_in_child=_renew_mark)
