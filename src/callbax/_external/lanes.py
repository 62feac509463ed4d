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

from callbax._errors import (
    CallbackResultError,
    describe_arrays,
    describe_function,
    describe_lanes,
    note_call,
)
from callbax._external import pool
from callbax._external.structure import Structure
from callbax._host_call import HostCall, convert_results
from callbax._host_function import Hashable, Wording

Index = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LaneFunction:
    """A host function as one lane calls it: with flat arrays.

    Attributes:
      function: the host function.
      structure: of its arguments.
      result_tree: of its result.
      zero_copy: arguments may be read-only views of memory that is not the function's own.
      out: whether the function writes its result into an argument `out`.
    """

    function: Hashable
    structure: Structure
    result_tree: Any
    zero_copy: bool = False
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
    """A way to run lanes. Comparable: it is a part of the function's key.

    `views` says that it takes XLA's memory as it is, reads it only while it runs, and copies it lane
    by lane.
    """

    @property
    def views(self) -> bool: ...

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
      wording: how messages speak of the call.
    """

    function: LaneFunction
    runner: Runner
    structs: tuple[jax.ShapeDtypeStruct, ...]
    results: tuple[jax.ShapeDtypeStruct, ...]
    masked: bool
    canonicalize: bool
    cast: bool
    wording: Wording = Wording()

    def __call__(self, *leaves: np.ndarray) -> list[np.ndarray]:
        batch = Batch(self, leaves)
        try:
            if batch.live:
                self.runner.run(batch)
        except BaseException as error:
            batch.name_call(error)
            raise
        return batch.stacks

    @property
    def callbax_description(self) -> str:
        return self.function.callbax_description

    callbax_names_its_calls = True  # errors have their notes when they leave it

    @functools.cached_property
    def as_host_call(self) -> HostCall:
        """What messages about results name."""
        return HostCall(
            self.function.function,
            jax.tree.structure(((), {})),
            result=None if self.function.out else self.function.result_tree,
            wording=self.wording,
        )


class Batch:
    """The lanes of one call.

    Attributes:
      shape: of the batch; empty for a single call.
      function: what lanes call.
      live: the flat positions of its lanes that are to be run.
      stacks: the results of all lanes; zero where a lane is not live.
    """

    def __init__(self, call: LaneCall, leaves: Sequence[np.ndarray]):
        self.call = call
        self.function = call.function
        self._is_named = False  # whether an error has a note of its lane
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
            Operand(array, front, self.shape, call.function.zero_copy, call.runner.views)
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

    def call_lane(self, lane: int, arguments: Sequence[np.ndarray]) -> None:
        """Runs one lane here, and puts its result."""
        try:
            if self.function.out:
                self.function(arguments, [row[lane, ...] for row in self._rows])
            else:
                self._put(lane, self.function(arguments))
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

    def call_once(self) -> None:
        """Runs one lane here, for all live ones."""
        first = self.live[0]
        self.call_lane(first, self.arguments(first))
        for row in self._rows:
            row[self.live] = row[first]

    def name_lane(self, error: BaseException, lane: int) -> None:
        """Says in a note of the error which lane it comes from."""
        structs = describe_arrays(self.call.structs)
        note_call(error, self.call.callbax_description, self.describe([lane]), structs)
        self._is_named = True

    def name_call(self, error: BaseException) -> None:
        """Says in a note of the error which call it comes from, if it is not a lane's."""
        if not self._is_named:
            callback = self.call.callbax_description
            arrays = describe_arrays([operand.array for operand in self.operands])
            note_call(error, callback, describe_lanes(callback, ()), arrays)

    def describe(self, lanes: Sequence[int]) -> str:
        """What messages call these lanes, which are in order."""
        return describe_lanes(self.call.callbax_description, self.shape, lanes[0], lanes[-1])

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

    def __init__(
        self, array: np.ndarray, front: Index, shape: Index, zero_copy: bool, is_view: bool
    ):
        self.array = array
        self.rows = array.reshape(-1, *array.shape[len(front) :])
        self._row_of: list[int] | None = None  # of each lane, unless each has its own
        is_shared = front != shape
        if is_shared:
            numbers = np.arange(len(self.rows)).reshape(front)
            self._row_of = np.broadcast_to(numbers, shape).ravel().tolist()
            if zero_copy:
                self.rows = self.rows.view()
                self.rows.flags.writeable = False
        self.is_one_row = is_shared and len(self.rows) == 1
        # A lane may keep its arguments, and write to them.
        self._copies = not zero_copy and (is_view or is_shared)

    def of_lane(self, lane: int) -> np.ndarray:
        row = self.rows[lane if self._row_of is None else self._row_of[lane], ...]
        return row.copy() if self._copies else row

    def of_lanes(self, lanes: Sequence[int]) -> np.ndarray:
        """The rows of these lanes, stacked; a single row if they all share one."""
        if self.is_one_row:
            return self.rows
        if self._row_of is not None:
            return self.rows[[self._row_of[lane] for lane in lanes]]
        first, last = lanes[0], lanes[-1]
        if last - first + 1 == len(lanes):  # lanes are in order
            return self.rows[first : last + 1]
        return self.rows[list(lanes)]


@dataclasses.dataclass(frozen=True)
class InTurn:
    """One lane after the other, in the thread that calls."""

    views: bool = True

    def run(self, batch: Batch) -> None:
        for lane in batch.live:
            batch.call_lane(lane, batch.arguments(lane))


@dataclasses.dataclass(frozen=True)
class Threads:
    """Lanes over the threads of a shared pool."""

    views: bool = True

    def run(self, batch: Batch) -> None:
        if len(batch.live) == 1:
            InTurn().run(batch)
            return
        pool.run_lanes(
            batch.arguments,
            batch.call_lane,
            batch.live,
            call_reads=batch.function.zero_copy,
        )


@dataclasses.dataclass(frozen=True)
class Whole:
    """One call for all live lanes, stacked in one leading dimension.

    What all lanes share has size 1 there, or is repeated if `repeats`.
    """

    repeats: bool
    views: bool = False

    def run(self, batch: Batch) -> None:
        function, lanes = batch.function, batch.live
        if not batch.shape or all(operand.is_one_row for operand in batch.operands):
            # Only the mask has lanes: without it, this would be a single call.
            batch.call_once()
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
