"""The gateway's part for calls per shard: custom calls that the compiler cuts between devices.

Such a call is marked as independent along its leading dimensions, for both partners that decide about
it: Shardy, which chooses how values are distributed (a sharding rule), and XLA's partitioner, which
cuts the call (a target that is registered as partitionable along leading dimensions). Then each
device calls for its own part, and nothing is gathered.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import core
from jax._src.interpreters import mlir
from jax._src.mesh import empty_abstract_mesh, use_abstract_mesh

from callbax._jax.placement import partitioned_target, uses_shardy


@dataclasses.dataclass(frozen=True)
class Batch:
    """The leading dimensions along which a call may be cut.

    Attributes:
      sizes: of these dimensions, with which each result begins.
      axes: for each operand, which of them it has in front, in order; what it has with size 1, or not
        at all, is the same for all.
    """

    sizes: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]

    @property
    def may_be_cut(self) -> bool:
        """A rule for Shardy says sizes as numbers: symbolic ones it cannot."""
        return bool(self.sizes) and all(isinstance(size, int) for size in self.sizes)


def emit(
    ctx: Any,
    operands: Sequence[Any],
    target: str,
    attributes: dict[str, Any],
    batch: Batch,
    has_side_effect: bool = False,
) -> list[Any]:
    """The call of a target, cut along `batch`. Returns the results' values.

    The target's handler drops the last dimension of the first operand if the attribute "widened" is
    set, and ignores the result of a call that has "no_results".
    """
    # With a mesh JAX would declare what is new here to be whole on each device.
    with use_abstract_mesh(empty_abstract_mesh):
        avals = [_aval(aval.shape, aval.dtype) for aval in ctx.avals_in]
        begun = [_fence(ctx)] if has_side_effect else []
        # XLA's partitioner wants a first operand that has more than the dimensions in question,
        widened = core.physical_aval(avals[0]).ndim == len(batch.axes[0])
        prepare = mlir.lower_fun(partial(_with_all_axes, batch, widened, len(begun)))
        given = dataclasses.replace(ctx, avals_in=[_TRUE] * len(begun) + avals)
        values = prepare(given, *begun, *operands)
        wide = [
            _aval(
                (*batch.sizes, *aval.shape[len(axes) :], *(1,) * (widened and i == 0)), aval.dtype
            )
            for i, (aval, axes) in enumerate(zip(avals, batch.axes, strict=True))
        ]
        # and a result.
        results = ctx.avals_out or [_aval(batch.sizes, np.dtype(bool))]
    build = jax.ffi.build_ffi_lowering_function(
        target,
        has_side_effect=has_side_effect,
        extra_attributes={"mhlo.frontend_attributes": _batch_dimensions(len(batch.sizes))},
    )
    if widened:
        attributes = {**attributes, "widened": np.bool_(True)}
    call_ctx = dataclasses.replace(ctx, avals_in=wide, avals_out=results)
    operation = build(call_ctx, *values, **attributes)
    if uses_shardy():
        rule = _sharding_rule(wide, results, batch)
        operation.attributes["sdy.sharding_rule"] = mlir.ir.Attribute.parse(rule)
    if has_side_effect:
        _fence(ctx, operation.results[0], results[0])
    return list(operation.results) if ctx.avals_out else []


_aval = core.ShapedArray
_TRUE = _aval((), np.dtype(bool))


def _batch_dimensions(count: int) -> Any:
    return mlir.ir.DictAttr.get({"num_batch_dims": mlir.ir.StringAttr.get(str(count))})


def _with_all_axes(batch: Batch, widened: bool, fences: int, *args: Any) -> list[Any]:
    """The operands with all leading dimensions, as the partitioner wants them."""
    values = []
    for arg, axes in zip(args[fences:], batch.axes, strict=True):
        absent = [k for k in range(len(batch.sizes)) if k not in axes]
        own = arg.shape[len(axes) :]
        values.append(jnp.broadcast_to(jnp.expand_dims(arg, absent), (*batch.sizes, *own)))
    if fences:
        values[0] = jnp.where(args[0], values[0], jnp.zeros_like(values[0]))
    if widened:
        values[0] = values[0][..., None]
    return values


def _fence(ctx: Any, value: Any = None, aval: Any = None) -> Any:
    """A call on each device that does nothing: it takes a value, or gives True.

    XLA's partitioner forgets that a call has a side effect when it cuts it. So XLA could leave it out,
    merge it with an equal one, or move it out of a loop. It keeps what does nothing, under the name
    that it knows for host callbacks on each device. A call whose first operand depends on the result of
    one, and whose result goes to another, stays where it is.
    """
    avals_in, avals_out = ([], [_TRUE]) if value is None else ([aval], [])
    target = partitioned_target(ctx, "a function with an effect (per_shard=True)")
    build = jax.ffi.build_ffi_lowering_function(target, has_side_effect=True)
    call_ctx = dataclasses.replace(ctx, avals_in=avals_in, avals_out=avals_out)
    operation = build(call_ctx, *(() if value is None else (value,)), fence=np.bool_(True))
    return operation.results[0] if value is None else None


def _sharding_rule(operands: Sequence[Any], results: Sequence[Any], batch: Batch) -> str:
    """Shardy's text: the leading dimensions go together, each of the others must be whole."""
    sizes = list(batch.sizes)
    rank = len(sizes)
    whole: list[str] = []

    def factors(aval: Any) -> str:
        shape = core.physical_aval(aval).shape
        names = [_factor(k) for k in range(rank)]
        for size in shape[rank:]:
            names.append(_factor(len(sizes)))
            whole.append(names[-1])
            sizes.append(size)
        return f"[{', '.join(names)}]"

    given, returned = (", ".join(map(factors, avals)) for avals in (operands, results))
    all_sizes = ", ".join(f"{_factor(k)}={size}" for k, size in enumerate(sizes))
    replicated = f" need_replication={{{', '.join(whole)}}}," if whole else ""
    return f"#sdy.op_sharding_rule<({given})->({returned}) {{{all_sizes}}}{replicated} custom>"


def _factor(number: int) -> str:
    """Shardy's names of factors: i, j, ..., z, z_1, z_2, ..."""
    letters = string.ascii_lowercase[8:]
    last = len(letters) - 1
    return letters[number] if number <= last else f"z_{number - last}"


def distributed_as(avals: Sequence[Any], batch: Batch, rank: int) -> Any:
    """The sharding of a result of that rank whose leading dimensions are those of the operands.

    It is distributed as they are, where their types say that they are; what follows the leading
    dimensions is not. None if none of the operands has leading dimensions, or a mesh.
    """
    typed = [
        (aval.sharding, axes)
        for aval, axes in zip(avals, batch.axes, strict=True)
        if axes and not aval.sharding.mesh.empty
    ]
    if not typed:
        return None
    over: list[Any] = [None] * rank
    for sharding, axes in typed:
        for k, axis in zip(axes, tuple(sharding.spec), strict=False):
            if over[k] is not None and axis is not None and over[k] != axis:
                raise ValueError(
                    f"dimension {k} is distributed over {over[k]} in one argument, and over {axis} in "
                    "another; bring them together with jax.sharding.reshard"
                )
            over[k] = axis if over[k] is None else over[k]
    return typed[0][0].update(spec=jax.sharding.PartitionSpec(*over))


def is_distributed(avals: Sequence[Any]) -> bool:
    """Whether a type says that its array is distributed, as it does in an Explicit mesh."""
    return any(any(aval.sharding.spec) for aval in avals if isinstance(aval, core.ShapedArray))


def spread(values: Sequence[Any], shape: tuple[int, ...]) -> list[Any]:
    """`values`, which have the rank of `shape`, broadcast to it, and distributed alike."""
    avals = [jax.typeof(value) for value in values]
    sharding = None
    if is_distributed(avals):
        batch = Batch(shape, (tuple(range(len(shape))),) * len(avals))
        sharding = distributed_as(avals, batch, len(shape))
    return [
        value if aval.shape == shape else jnp.broadcast_to(value, shape, out_sharding=sharding)
        for value, aval in zip(values, avals, strict=True)
    ]


def typed_struct(aval: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype, and how it is distributed, if its type says so."""
    sharding = aval.sharding if is_distributed([aval]) else None
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)


def batched_struct(
    struct: jax.ShapeDtypeStruct, size: int, args: Sequence[Any], dims: Sequence[int | None]
) -> jax.ShapeDtypeStruct:
    """The struct with a leading dimension, distributed as dimension `dims[i]` of each argument is."""
    shape = (size, *struct.shape)
    types = [(jax.typeof(a), d) for a, d in zip(args, dims, strict=True) if d is not None]
    over = next(((t.sharding, t.sharding.spec[d]) for t, d in types if is_distributed([t])), None)
    sharding = struct.sharding or (over and over[0])
    if sharding is None or over is None:
        return jax.ShapeDtypeStruct(shape, struct.dtype)
    rest = struct.sharding.spec if struct.sharding else ()
    spec = jax.sharding.PartitionSpec(over[1], *rest)
    return jax.ShapeDtypeStruct(shape, struct.dtype, sharding=sharding.update(spec=spec))


def whole(values: Sequence[Any]) -> list[Any]:
    """`values`, not distributed."""
    return [
        jax.sharding.reshard(value, jax.sharding.PartitionSpec())
        if is_distributed([jax.typeof(value)])
        else value
        for value in values
    ]
