"""A batch on the host: which leading dimensions are lanes, what each lane gets, where results go.

A host function that is to be called lane by lane, over threads or elsewhere, or for live lanes only,
is wrapped in a `LaneCall`. The runtime calls that once for the whole batch, as for
vmap_method="expand_dims": each array has all batch dimensions in front, of size 1 where all lanes
share one value. What is in front of an array's own dimensions are therefore lanes, of one `vmap` or
of several.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from callbax._host import identity, program_names, trust
from callbax._host.call import HostCall
from callbax._host.operands import Index, Operand
from callbax._host.results import convert_results
from callbax._runtime import pool
from callbax._runtime.errors import describe_arrays, describe_lanes, note_call
from callbax._runtime.wrapper import Wrapper, device_library, keeps_objects, without_last_result


class Runner(Protocol):
    """A way to run lanes. Comparable: it is a part of the function's key.

    `name` is what programs call it, empty if they cannot. `elsewhere` says that lanes run where
    nothing is known of XLA, maybe longer than the call: they need memory that is not XLA's. Others
    read XLA's memory while they run.
    """

    @property
    def name(self) -> str: ...

    @property
    def elsewhere(self) -> bool: ...

    def run(self, batch: Batch) -> None:
        """Puts the result of each of the batch's lanes; raises what the first failing one raised."""
        ...


@dataclasses.dataclass(frozen=True)
class LaneCall(Wrapper):
    """What the runtime calls for a batch. Frozen and comparable, as JAX compares it.

    Attributes:
      host_call: calls the host function for one lane.
      runner: runs the lanes.
      ranks: of one lane's arrays.
      results: shape and dtype of one lane's results.
      masked: the first array says which lanes are live; the results of the others are zero.
      canonicalize: whether JAX narrows 64-bit values.
    """

    host_call: HostCall
    runner: Runner
    ranks: tuple[int, ...]
    results: tuple[jax.ShapeDtypeStruct, ...]
    masked: bool
    canonicalize: bool

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
    def description(self) -> str:
        return str(self.host_call)

    notes_its_calls = True

    @property
    def host_function(self) -> Any:
        return trust.host_function(self.host_call.function)

    @property
    def keeps_objects(self) -> bool:
        return keeps_objects(self.host_call.function)

    @property
    def device_library(self) -> str | None:
        return device_library(self.host_call.function)

    def without_last_result(self) -> LaneCall | None:
        if (shorter := without_last_result(self.host_call.function)) is None:
            return None
        called = self.host_call.with_function(shorter)
        return dataclasses.replace(self, host_call=called, results=self.results[:-1])

    def calls_same_as(self, other: LaneCall) -> bool:
        return super().calls_same_as(other) and self.runner == other.runner

    @property
    def program_name(self) -> dict[str, Any] | None:
        called = identity.stable_name(self.host_call)
        if called is None or not self.runner.name:
            return None
        return {
            "lanes": self.runner.name,
            "of": called,
            "views": self.host_call.views,
            "casting": self.host_call.casting,
            "external": self.host_call.external,
            "ranks": self.ranks,
            "results": program_names.write_structs(self.results),
            "masked": self.masked,
            "canonicalize": self.canonicalize,
        }


class Batch:
    """The lanes of one call.

    Attributes:
      shape: of the batch; empty for a single call.
      host_call: what lanes call.
      live: the flat positions of its lanes that are to be run.
      stacks: the results of all lanes; zero where a lane is not live.
    """

    def __init__(self, call: LaneCall, leaves: Sequence[np.ndarray]):
        self.call = call
        self.host_call = call.host_call
        self._is_named = False  # whether an error has a note of its lane
        ranks = [0] * call.masked + list(call.ranks)
        fronts = [a.shape[: a.ndim - rank] for a, rank in zip(leaves, ranks, strict=True)]
        self.shape: Index = np.broadcast_shapes(*fronts)
        size = math.prod(self.shape)
        mask = leaves[0] if call.masked else None
        leaves, fronts = leaves[call.masked :], fronts[call.masked :]
        self.live: Sequence[int] = range(size)
        if mask is not None:
            self.live = np.flatnonzero(np.broadcast_to(mask, self.shape)).tolist()
        self._arrays = leaves
        self.operands = [
            Operand.of(
                array,
                front,
                self.shape,
                is_xlas=not call.runner.elsewhere,
                read_only=call.host_call.views,
            )
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
            if self.host_call.out is None:
                self._put(lane, self.host_call.call(arguments))
            else:
                self.host_call.call([*arguments, *(row[lane, ...] for row in self._rows)])
        except BaseException as error:
            self.name_lane(error, lane)
            raise

    def put(self, lane: int, value: Any) -> None:
        """Takes what the function returned, or wrote into arrays of its own, for one lane."""
        try:
            self._put(lane, value)
        except Exception as error:
            self.name_lane(error, lane)
            raise

    def call_whole(self, stacked: Sequence[np.ndarray]) -> None:
        """Calls the function once for all live lanes, and puts its results, which are stacked."""
        front = (len(self.live),)
        outs = new_outs(self.host_call, self.call.results, front)
        value = self.host_call.call([*stacked, *outs])
        for row, array in zip(self._rows, self._converted(outs or value, front), strict=True):
            row[self.live] = array

    def call_once(self) -> None:
        """Runs one lane here, for all live ones."""
        first = self.live[0]
        self.call_lane(first, self.arguments(first))
        for row in self._rows:
            row[self.live] = row[first]

    def name_lane(self, error: BaseException, lane: int) -> None:
        """Says in a note of the error which lane it comes from."""
        structs = describe_arrays([operand.of_one_lane for operand in self.operands])
        note_call(error, self.call.description, self.describe([lane]), structs)
        self._is_named = True

    def name_call(self, error: BaseException) -> None:
        """Says in a note of the error which call it comes from, if it is not a lane's."""
        if not self._is_named:
            callback = self.call.description
            arrays = describe_arrays(self._arrays)
            note_call(error, callback, describe_lanes(callback, ()), arrays)

    def describe(self, lanes: Sequence[int]) -> str:
        """What messages call these lanes, which are in order."""
        return describe_lanes(str(self.host_call), self.shape, lanes[0], lanes[-1])

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
            and (type(value) is np.ndarray or isinstance(value, np.generic))
            and value.dtype == results[0].dtype
            and value.shape == results[0].shape
        )

    def _converted(self, value: Any, front: Index = ()) -> list[np.ndarray]:
        call = self.call
        return convert_results(
            call.host_call,
            value,
            [(*front, *struct.shape) for struct in call.results],
            [struct.dtype for struct in call.results],
            call.canonicalize,
            call.host_call.casting,
        )


def new_outs(
    host_call: HostCall, results: Sequence[jax.ShapeDtypeStruct], front: Index = ()
) -> list[np.ndarray]:
    """Arrays for the function to write its results into, if it does."""
    if host_call.out is None:
        return []
    return [np.empty((*front, *struct.shape), struct.dtype) for struct in results]


@dataclasses.dataclass(frozen=True)
class InTurn:
    """One lane after the other, in the thread that calls."""

    name: ClassVar[str] = "sequential"
    elsewhere: bool = False

    def run(self, batch: Batch) -> None:
        for lane in batch.live:
            batch.call_lane(lane, batch.arguments(lane))


@dataclasses.dataclass(frozen=True)
class Threads:
    """Lanes over the threads of the pool."""

    name: ClassVar[str] = "threads"
    elsewhere: bool = False

    def run(self, batch: Batch) -> None:
        reads = batch.host_call.views
        pool.run_lanes(batch.arguments, batch.call_lane, batch.live, call_reads=reads)


@dataclasses.dataclass(frozen=True)
class Whole:
    """One call for all live lanes, stacked in one leading dimension.

    What all lanes share has size 1 there, or is repeated if `repeats`.
    """

    repeats: bool
    elsewhere: bool = False

    @property
    def name(self) -> str:
        return "broadcast_all" if self.repeats else "expand_dims"

    def run(self, batch: Batch) -> None:
        lanes = batch.live
        if not batch.shape or all(operand.is_one_row for operand in batch.operands):
            batch.call_once()  # only the mask has lanes: without it, this would be a single call
            return
        batch.call_whole([operand.stacked(lanes, self.repeats) for operand in batch.operands])
