"""The batching rule of every flavour.

Lane by lane, a batch is one native call that loops over the lanes. `Lanes` says which leading axes
are lanes: axis 0 is the one that was batched first, and varies slowest, so that under nested vmap
the innermost axis goes first: vmap(vmap(debug.callback)) over [[0, 1], [2, 3], [4, 5]] shows
0 2 4 1 3 5, as JAX's loops do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np

from callbax import _jax
from callbax._callbacks.flavours import Flavour
from callbax._jax import control_flow, per_shard
from callbax._typing import JaxVmapMethod

VMAP_METHODS = (*get_args(JaxVmapMethod), None)
LANE_BY_LANE = ("sequential", "sequential_unrolled", None)


@dataclasses.dataclass(frozen=True)
class Lanes:
    """Leading axes over which the runtime loops.

    Attributes:
      sizes: of the lane axes.
      operand_axes: for each operand a bit mask: bit k says that the operand has lane axis k (in
        front of its own axes, in order); without it, every lane sees the same value.
    """

    sizes: tuple[int, ...] = ()
    operand_axes: tuple[int, ...] = ()

    def masks(self, operands: int) -> tuple[int, ...]:
        return self.operand_axes or (0,) * operands

    def with_axis(self, size: int, batched: Sequence[bool]) -> Lanes:
        bit = 1 << len(self.sizes)
        return Lanes(
            (*self.sizes, size),
            tuple(
                mask | (bit if has else 0)
                for mask, has in zip(self.masks(len(batched)), batched, strict=True)
            ),
        )

    def in_front(self, avals: Sequence[Any], core_ranks: Sequence[int]) -> per_shard.Batch:
        """The dimensions in front of the operands' cores: lane axes, and then those of whole batches.

        Of these each operand has all, if perhaps with size 1.
        """
        count = len(self.sizes)
        masks = self.masks(len(avals))
        lanes = [tuple(k for k in range(count) if (mask >> k) & 1) for mask in masks]
        whole = [
            aval.shape[len(axes) : aval.ndim - rank]
            for aval, axes, rank in zip(avals, lanes, core_ranks, strict=True)
        ]
        sizes = (*self.sizes, *jnp.broadcast_shapes(*whole))
        rest = tuple(range(count, len(sizes)))
        return per_shard.Batch(sizes, tuple((*axes, *rest) for axes in lanes))

    def split(self, arrays: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """Copies of the arrays' slices, lane by lane, as the runtime makes them."""
        for position in np.ndindex(*self.sizes):
            yield [
                np.array(array[tuple(i for k, i in enumerate(position) if (mask >> k) & 1)])
                for array, mask in zip(arrays, self.masks(len(arrays)), strict=True)
            ]


NO_LANES = Lanes()


def batch(flavour: Flavour, primitive: Any, args: Any, dims: Any, **params: Any) -> Any:
    lane_by_lane = params["vmap_method"] in LANE_BY_LANE
    if params["ordered"] and lane_by_lane and not flavour.vmap_ordered:
        raise ValueError(
            "Cannot `vmap` ordered IO callback. "
            f"{params['host_call']} would have to run for all lanes at once and in order; use "
            f"{flavour.unordered}, or jax.lax.map over the batch."
        )
    if flavour.informed:
        return _batch_informed(primitive, args, dims, params)
    size = next(arg.shape[d] for arg, d in zip(args, dims, strict=True) if d is not None)
    if lane_by_lane:
        return _batch_lanes(primitive, size, args, dims, params)
    return _batch_whole(primitive, size, args, dims, params)


def _batch_informed(primitive: Any, args: Any, dims: Any, params: Any) -> Any:
    """One call, of a host function that is told where the batch axis of each argument is."""
    host_call = params["host_call"]
    informed = host_call.with_function(host_call.function.batched(tuple(dims)))
    return primitive.bind(*args, **{**params, "host_call": informed}), ()


def _batch_lanes(primitive: Any, size: int, args: Any, dims: Any, params: Any) -> Any:
    lanes: Lanes = params["lanes"]
    masks = lanes.masks(len(args))
    # The new lane axis comes after those that the operand has already.
    moved = [
        arg if d is None else _jax.move_axis(arg, d, mask.bit_count())
        for arg, d, mask in zip(args, dims, masks, strict=True)
    ]
    position = len(lanes.sizes)
    results = primitive.bind(
        *moved,
        **{
            **params,
            "result_avals": _batched_avals(params["result_avals"], size, position),
            "lanes": lanes.with_axis(size, [d is not None for d in dims]),
        },
    )
    return results, (position,) * len(results)


def _batch_whole(primitive: Any, size: int, args: Any, dims: Any, params: Any) -> Any:
    """One call of the host function, which handles the batch itself."""
    method = params["vmap_method"]

    def to_front(arg: Any, d: int | None) -> Any:
        if d is not None:
            return _jax.move_axis(arg, d, 0)
        if method == "legacy_vectorized":
            return arg
        repeats = size if method == "broadcast_all" else 1
        return jnp.broadcast_to(arg, (repeats, *np.shape(arg)))

    results = primitive.bind(
        *(to_front(arg, d) for arg, d in zip(args, dims, strict=True)),
        **{**params, "result_avals": _batched_avals(params["result_avals"], size, 0)},
    )
    return results, (0,) * len(results)


def _batched_avals(avals: Sequence[Any], size: int, position: int) -> tuple[Any, ...]:
    return tuple(_jax.unmapped_aval(size, position, aval) for aval in avals)


def _refused_under_batched_predicate(params: Any, refusal: str) -> Exception:
    return NotImplementedError(
        f"{refusal.removesuffix('.')}. `vmap` has batched the predicate, so that the callback "
        f"{params['host_call']} would run for all lanes, also for those where the predicate is false. "
        "Call it for live lanes only, by "
        "callbax.external(f, effects='io', ...).call_where(predicate, ...); or use jax.lax.map over the "
        "batch; or, if it only shows values, callbax.debug.callback."
    )


def _needed_again(params: Any) -> Exception:
    return NotImplementedError(
        f"The linear function of a while_loop needs what the callback {params['host_call']} returned, "
        "but a loop of unknown length keeps nothing, so that it would have to be called again. Use "
        "jax.lax.scan, or fori_loop with a fixed number of steps; or jax.jvp, which runs one loop."
    )


IN_CONTROL_FLOW = control_flow.Effectful(
    is_masked=lambda params: params["host_call"].masked,
    error=_refused_under_batched_predicate,
    needed_again=_needed_again,
)
