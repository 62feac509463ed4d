"""A batch on the host: which leading dimensions are lanes, what each lane gets, where results go.

A host function that is to be called lane by lane, over threads or elsewhere, or for live lanes only,
is wrapped in a `LaneCall`. The runtime calls that once for the whole batch, as for
vmap_method="expand_dims": each array has all batch dimensions in front, of size 1 where all lanes
share one value. What is in front of an array's own dimensions are therefore lanes, of one `vmap` or
of several.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from callbax._errors import CallbackResultError, describe_function
from callbax._external import pool
from callbax._external.structure import Structure
from callbax._host_call import HostCall, convert_results
from callbax._host_function import Hashable

Index = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LaneFunction:
    """A host function as one lane calls it: with flat arrays.

    Attributes:
      function: the host function.
      structure: of its arguments.
      result_tree: of its result.
      shared_views: arrays that lanes share are read-only views; otherwise each lane gets a copy.
      out: whether the function writes its result into an argument `out`.
    """

    function: Hashable
    structure: Structure
    result_tree: Any
    shared_views: bool = False
    out: bool = False

    def __call__(self, leaves: Sequence[Any], outs: Sequence[np.ndarray] = ()) -> Any:
        if self._takes_leaves:
            return self.function.value(*leaves)
        args, kwargs = self.structure.unflatten(leaves)
        if not self.out:
            return self.function.value(*args, **kwargs)
        value = self.function.value(*args, **kwargs, out=jax.tree.unflatten(self.result_tree, outs))
        given = outs if value is None else jax.tree.leaves(value)
        if len(given) != len(outs) or any(a is not b for a, b in zip(given, outs, strict=True)):
            raise CallbackResultError(
                f"The callback {self.callbax_description} has out=True, so it must write its result "
                "into the argument `out` and return None or `out` itself, but it returned another "
                f"object, of type {type(value).__name__}."
            )
        return list(outs)

    @functools.cached_property
    def _takes_leaves(self) -> bool:
        """Whether each argument is one array, given by position."""
        count = self.structure.tree.num_leaves
        flat = self.structure.tree == jax.tree.structure(((0,) * count, {}))
        return flat and not self.structure.static and not self.out

    @property
    def callbax_description(self) -> str:
        return describe_function(self.function.value)


class Runner(Protocol):
    """A way to run lanes. Comparable: it is a part of the function's key."""

    def run(self, batch: Batch) -> None:
        """Puts the result of each of the batch's lanes; raises what the first failing one raised."""
        ...


@dataclasses.dataclass(frozen=True)
class LaneCall:
    """What the runtime calls for a batch. Frozen and comparable, as JAX compares it.

    Attributes:
      function: for one lane.
      runner: runs the lanes.
      structs, results: shape and dtype of one lane's arrays and results.
      masked: the first array says which lanes are live; the results of the others are zero.
      canonicalize: whether JAX narrows 64-bit values.
      cast: whether results of any dtype of the same kind are converted.
    """

    function: LaneFunction
    runner: Runner
    structs: tuple[jax.ShapeDtypeStruct, ...]
    results: tuple[jax.ShapeDtypeStruct, ...]
    masked: bool
    canonicalize: bool
    cast: bool

    def __call__(self, *leaves: np.ndarray) -> list[np.ndarray]:
        batch = Batch(self, leaves)
        if batch.live:
            self.runner.run(batch)
        return batch.stacks

    @property
    def callbax_description(self) -> str:
        return self.function.callbax_description

    @functools.cached_property
    def as_host_call(self) -> HostCall:
        """What messages about results name."""
        return HostCall(self.function.function, jax.tree.structure(((), {})))


class Batch:
    """The lanes of one call.

    Attributes:
      shape: of the batch; empty for a single call.
      live: the flat positions of its lanes that are to be run.
      stacks: the results of all lanes; zero where a lane is not live.
    """

    def __init__(self, call: LaneCall, leaves: Sequence[np.ndarray]):
        self.call = call
        ranks = [len(struct.shape) for struct in call.structs]
        if call.masked:
            ranks = [0, *ranks]
        fronts = [a.shape[: a.ndim - rank] for a, rank in zip(leaves, ranks, strict=True)]
        self.shape: Index = np.broadcast_shapes(*fronts)
        size = math.prod(self.shape)
        every = range(size)
        mask, leaves, fronts = (
            (leaves[0], leaves[1:], fronts[1:]) if call.masked else (None, leaves, fronts)
        )
        self.live: Sequence[int] = (
            every if mask is None else np.flatnonzero(np.broadcast_to(mask, self.shape)).tolist()
        )
        self.operands = [
            Operand(array, front, self.shape, call.function.shared_views)
            for array, front in zip(leaves, fronts, strict=True)
        ]
        make = np.empty if len(self.live) == size else np.zeros
        self.stacks = [make((*self.shape, *s.shape), s.dtype) for s in call.results]
        self._rows = [
            stack.reshape(size, *struct.shape)
            for stack, struct in zip(self.stacks, call.results, strict=True)
        ]

    def arguments(self, lane: int) -> list[np.ndarray]:
        """What one lane's call gets."""
        return [operand.of_lane(lane) for operand in self.operands]

    def call_lane(self, lane: int) -> None:
        """Runs one lane here, and puts its result."""
        function = self.call.function
        try:
            if function.out:
                function(self.arguments(lane), self._out(lane))
            else:
                self._put(lane, function(self.arguments(lane)))
        except BaseException as error:
            self.name_lane(error, lane)
            raise

    def put(self, lane: int, value: Any) -> None:
        """Takes what the function returned for one lane."""
        try:
            self._put(lane, value)
        except Exception as error:
            self.name_lane(error, lane)
            raise

    def put_all(self, value: Any) -> None:
        """Takes what the function returned for all live lanes at once, stacked."""
        for row, array in zip(self._rows, self._converted(value, (len(self.live),)), strict=True):
            row[self.live] = array

    def name_lane(self, error: BaseException, lane: int) -> None:
        """Says in a note of the error which lane it comes from."""
        if self.shape:
            error.add_note(f"callbax: in {self.describe([lane])}")

    def describe(self, lanes: Sequence[int]) -> str:
        """What messages call these lanes, which are in order."""
        if not self.shape:
            return f"the call of {self.call.callbax_description}"
        first, last = self._index(lanes[0]), self._index(lanes[-1])
        which = f"lane {first}" if len(lanes) == 1 else f"lanes {first} to {last}"
        sizes = " x ".join(map(str, self.shape))
        return f"{which} of a batch of {sizes} of {self.call.callbax_description}"

    def _index(self, lane: int) -> Any:
        index = tuple(map(int, np.unravel_index(lane, self.shape)))
        return index[0] if len(index) == 1 else index

    def _out(self, lane: int) -> list[np.ndarray]:
        return [row[lane, ...] for row in self._rows]

    def _put(self, lane: int, value: Any) -> None:
        if self._fits_at_once(value):
            self._rows[0][lane] = value
            return
        for row, array in zip(self._rows, self._converted(value), strict=True):
            row[lane] = array

    def _fits_at_once(self, value: Any) -> bool:
        """Whether `value` is the one result as it must be, so that it needs no conversion."""
        results = self.call.results
        return (
            len(results) == 1
            and isinstance(value, (np.ndarray, np.generic))
            and value.dtype == results[0].dtype
            and value.shape == results[0].shape
        )

    def _converted(self, value: Any, front: Index = ()) -> list[np.ndarray]:
        call = self.call
        return convert_results(
            call.as_host_call,
            value,
            [(*front, *struct.shape) for struct in call.results],
            [struct.dtype for struct in call.results],
            call.canonicalize,
            call.cast,
        )


class Operand:
    """One array argument of a batch: its rows, and which of them each lane gets."""

    def __init__(self, array: np.ndarray, front: Index, shape: Index, shared_views: bool):
        core = array.shape[len(front) :]
        self.rows = array.reshape(-1, *core)
        self.is_shared = front != shape
        self._row_of: list[int] | None = None  # of each lane, unless each has its own
        if self.is_shared:
            numbers = np.arange(len(self.rows)).reshape(front)
            self._row_of = np.broadcast_to(numbers, shape).ravel().tolist()
            if shared_views:
                self.rows = self.rows.view()
                self.rows.flags.writeable = False
        self._copies = self.is_shared and not shared_views

    def of_lane(self, lane: int) -> np.ndarray:
        """A view, or a copy of what lanes share: a lane may write to its arguments."""
        row = self.rows[lane if self._row_of is None else self._row_of[lane], ...]
        return row.copy() if self._copies else row

    def of_lanes(self, lanes: Sequence[int]) -> np.ndarray:
        """The rows of these lanes, stacked; a single row if they all share one."""
        if self._row_of is None:
            return _take(self.rows, lanes)
        if len(self.rows) == 1:
            return self.rows
        return _take(self.rows, [self._row_of[lane] for lane in lanes])


def _take(rows: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """A view if they follow each other, else a copy."""
    first, last = numbers[0], numbers[-1]
    if last - first + 1 == len(numbers) and list(numbers) == list(range(first, last + 1)):
        return rows[first : last + 1]
    return rows[list(numbers)]


@dataclasses.dataclass(frozen=True)
class InTurn:
    """One lane after the other, in the thread that calls."""

    def run(self, batch: Batch) -> None:
        for lane in batch.live:
            batch.call_lane(lane)


@dataclasses.dataclass(frozen=True)
class Threads:
    """Lanes over the threads of a shared pool."""

    def run(self, batch: Batch) -> None:
        if len(batch.live) == 1:
            batch.call_lane(batch.live[0])
        else:
            pool.run_lanes(batch.call_lane, batch.live)


@dataclasses.dataclass(frozen=True)
class Whole:
    """One call for all live lanes, stacked in one leading dimension.

    What all lanes share has size 1 there, or is repeated if `repeats`.
    """

    repeats: bool

    def run(self, batch: Batch) -> None:
        function, lanes = batch.call.function, batch.live
        if not batch.shape:
            batch.call_lane(0)
            return
        stacked = [self._stacked(operand, lanes) for operand in batch.operands]
        if not function.out:
            batch.put_all(function(stacked))
            return
        outs = [np.empty((len(lanes), *s.shape), s.dtype) for s in batch.call.results]
        batch.put_all(function(stacked, outs))

    def _stacked(self, operand: Operand, lanes: Sequence[int]) -> np.ndarray:
        array = operand.of_lanes(lanes)
        if self.repeats and len(array) != len(lanes):
            return np.repeat(array, len(lanes), axis=0)
        return array
