"""The lowering of every flavour: one custom call of one native handler.

The call carries the callback's name (see _host/names.py) and a few attributes that the handler reads
once, when the program is compiled. Ordered calls take and give a token. Where there is no native
runtime, JAX's own callbacks call what the handler would (see _runtime/portable_calls.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import NamedSharding, SingleDeviceSharding

from callbax import _jax, _native, _start
from callbax._callbacks import devices
from callbax._callbacks.batching import NO_LANES, Lanes
from callbax._callbacks.flavours import Flavour
from callbax._host import identity
from callbax._host.call import HostCall
from callbax._jax import custom_calls, per_shard, placement
from callbax._jax.runtime import mark_calls
from callbax._runtime import detached, errors, platforms, portable_calls, surroundings
from callbax._runtime.platforms import Runtime
from callbax._runtime.wrapper import keeps_objects


def lower(
    flavour: Flavour,
    primitive: Any,
    ctx: Any,
    *operands: Any,
    host_call: HostCall,
    ordered: bool,
    partitioned: bool,
    sharding: Any,
    lanes: Lanes,
    core_ranks: tuple[int, ...] | None = None,
    **params: Any,
) -> Any:
    axis_context = ctx.module_context.axis_context
    exporting = _jax.is_exporting(ctx)
    compiled_for = ctx.module_context.platforms
    runtime = platforms.runtime_of(compiled_for, exporting=exporting)
    avals = [*ctx.avals_in, *ctx.avals_out]
    on_gpu = devices.gets_gpu_arrays(host_call, compiled_for, runtime, avals)
    batch = None
    if core_ranks and runtime.is_native and _jax.is_partitioned_automatically(ctx):
        batch = lanes.in_front(ctx.avals_in, core_ranks)
        batch = batch if batch.may_be_cut else None

    def with_lanes(lanes: Lanes) -> Any:
        return partial(
            primitive.bind,
            host_call=host_call,
            ordered=ordered,
            partitioned=partitioned,
            sharding=sharding,
            lanes=lanes,
            core_ranks=core_ranks,
            **params,
        )

    if batch is None and (automatic_axes := _automatic_axes(axis_context)):
        return _lower_partial_auto(
            flavour, ctx, operands, automatic_axes, ordered, lambda: with_lanes(lanes)
        )
    distributed = isinstance(axis_context, _jax.ShardingContext) and axis_context.num_devices > 1
    if partitioned and lanes.sizes and distributed:
        return _lower_lane_by_lane(ctx, operands, lanes, with_lanes(NO_LANES))
    shared_run = _jax.device_count(ctx) > 1
    # Of a program that runs on one device as it is, there is nothing to say.
    is_placed = shared_run or exporting or sharding is not None
    op_sharding = _op_sharding(flavour, ctx, sharding) if is_placed else None
    _start.prepare()
    holds_jax_arrays = host_call.holds_jax_arrays  # first: the registration's copy then knows it
    registration = identity.CALLBACKS.register(host_call, exporting=exporting)
    registration.keep_context(surroundings.context())
    _jax.keep_alive(ctx, registration)
    effectful = runtime.is_native and flavour.effect is not None
    may_be_detached = effectful and not (ctx.avals_out or shared_run or exporting or on_gpu)
    is_detached = may_be_detached and detached.is_on(compiled_for)
    unheard = mark_calls(
        ctx,
        effectful=effectful and not is_detached,
        is_detached=is_detached,
        holds_jax_arrays=holds_jax_arrays,
        keeps_objects=keeps_objects(host_call.function),
        is_native=runtime.is_native,
    )
    attributes = {
        "callback": registration.name,
        "flavour": flavour.public_name,
        **_attributes(ctx, host_call),
    }
    if on_gpu:
        attributes["on_device"] = True
    flags = {"shared_run": shared_run, "detached": is_detached, "unheard": unheard}
    flags["deferred"] = unheard and _jax.is_for_cuda(ctx)
    attributes |= {name: True for name, holds in flags.items() if holds}
    if lanes.sizes:
        # The runtime reads the sizes off the buffers: here they may be symbolic.
        attributes["lanes"] = np.ones(len(lanes.sizes), np.int64)
        every = (1 << len(lanes.sizes)) - 1
        masks = lanes.operand_axes if batch is None else (every,) * len(operands)
        attributes["operand_lanes"] = np.array(masks, np.int64)
    if batch is not None:
        has_side_effect = flavour.effect is not None
        return per_shard.emit(
            ctx, operands, _start.PER_SHARD_TARGET, attributes, batch, has_side_effect
        )
    effect = flavour.ordered_effect if ordered else None
    dimensions = itertools.chain.from_iterable(aval.shape for aval in ctx.avals_out)
    if exporting and effect is not None and any(map(export.is_symbolic_dim, dimensions)):
        raise NotImplementedError(
            f"{errors.full_name(flavour.public_name)} of {host_call} is ordered and has a result of "
            "symbolic shape, which XLA cannot find out where a token is a result as well. Let the shape "
            "be one of numbers, or the call be unordered."
        )
    emit = _emit_native if runtime.is_native else partial(_emit_portable, runtime)
    results = emit(host_call, ctx, operands, attributes, effect, op_sharding, partitioned, flavour)
    if ctx.avals_out and _jax.is_partitioned_automatically(ctx):
        return placement.replicated(ctx, results)
    return results


def _attributes(ctx: Any, host_call: HostCall) -> dict[str, Any]:
    """What the handler has to know of the function, its results and its settings."""
    attributes: dict[str, Any] = {}
    if not surroundings.has_x64(host_call.configuration):  # where it was traced
        attributes["canonicalize"] = True
    if not ctx.avals_out:
        # XLA gives a placed call without results one that nobody asked for.
        attributes["no_results"] = True
    if host_call.ignores_result:
        attributes["ignores_result"] = True
    if host_call.holds_jax_arrays:
        attributes[_start.NEEDS_POOL] = True
    if keeps_objects(host_call.function):
        attributes[_start.KEEPS_OBJECTS] = True
    if host_call.configuration:
        attributes["configuration"] = host_call.configuration
    if host_call.casting != "none":
        attributes["casting"] = host_call.casting
    if host_call.views:
        attributes["views"] = True
    if host_call.out is not None:
        attributes["out"] = True
    empty = [i for i, aval in enumerate(ctx.avals_out) if aval.dtype == jax.dtypes.float0]
    if empty:
        attributes["empty"] = np.array(empty, np.int64)
    return attributes


def _emit_portable(
    runtime: Runtime,
    host_call: HostCall,
    ctx: Any,
    operands: Any,
    attributes: Any,
    effect: Any,
    op_sharding: Any,
    partitioned: bool,
    flavour: Flavour,
) -> Any:
    return portable_calls.emit(
        ctx,
        operands,
        _native.CallbackSite,
        attributes,
        f"{errors.full_name(flavour.public_name)} of {host_call}",
        reason=runtime.reason,
        effect=effect,
        has_side_effect=flavour.effect is not None,
        partitioned=partitioned and "shared_run" in attributes and not ctx.avals_out,
        sharding=op_sharding,
    )


def _emit_native(
    host_call: HostCall,
    ctx: Any,
    operands: Any,
    attributes: Any,
    effect: Any,
    op_sharding: Any,
    partitioned: bool,
    flavour: Flavour,
) -> Any:
    call_ctx = ctx
    if effect is not None:
        operands = (ctx.tokens_in.get(effect), *operands)
        call_ctx = dataclasses.replace(
            ctx,
            avals_in=[_jax.ABSTRACT_TOKEN, *ctx.avals_in],
            avals_out=[_jax.ABSTRACT_TOKEN, *ctx.avals_out],
        )
    target = _start.PLACED_TARGET if "shared_run" in attributes else _start.TARGET
    if partitioned and "shared_run" in attributes:
        target = placement.partitioned_target(ctx, host_call)
    operation = custom_calls.emit(
        call_ctx, target, operands, attributes, has_side_effect=flavour.effect is not None
    )
    if op_sharding is not None:
        if effect is not None and ctx.avals_out:
            op_sharding = placement.with_token_sharding(op_sharding)
        placement.set_sharding(ctx.module_context, operation, op_sharding)
    results = list(operation.results)
    if effect is not None:
        token, *results = results
        ctx.set_tokens_out(ctx.tokens_in.update_tokens(_jax.TokenSet({effect: token})))
    return results


def _automatic_axes(axis_context: Any) -> tuple[Any, ...]:
    """Mesh axes that the compiler partitions, in a program that is partly partitioned by hand."""
    if not isinstance(axis_context, _jax.SPMDAxisContext):
        return ()
    names = axis_context.mesh.axis_names
    return tuple(name for name in names if name not in axis_context.manual_axes)


def _lower_partial_auto(
    flavour: Flavour, ctx: Any, operands: Any, axes: tuple[Any, ...], ordered: bool, rebound: Any
) -> Any:
    if not flavour.partial_auto or ordered:  # XLA ends the process where a token comes there
        what = f"ordered calls of {flavour.public_name}" if flavour.partial_auto else "callbacks"
        raise NotImplementedError(
            f"{what} are only supported in spmd computations when all mesh axes are partitioned "
            "manually (no partial automatic sharding)."
        )

    def on_first_index(*args: Any) -> Any:
        return _jax.run_on_first_index(axes, lambda: rebound()(*args), ctx.avals_out)

    return _jax.lower_fun(on_first_index)(ctx, *operands)


def _lower_lane_by_lane(ctx: Any, operands: Any, lanes: Lanes, unbatched: Any) -> Any:
    """A loop over lanes in the program: partitioned calls of no result, one for each lane.

    The compiler may have distributed the lanes of each operand in another way. Cut out by their
    index they are those of one lane again, while their other dimensions stay distributed.
    """

    def lane(i: Any, args: Sequence[Any]) -> None:
        position = jnp.unravel_index(i, lanes.sizes)
        unbatched(*(_lane_of(arg, mask, position) for arg, mask in zip(args, masks, strict=True)))

    def all_lanes(*args: Any) -> Any:
        jax.lax.fori_loop(0, math.prod(lanes.sizes), lambda i, _: lane(i, args), None)
        return []

    masks = lanes.masks(len(operands))
    return _jax.lower_fun(all_lanes)(ctx, *operands)


def _lane_of(arg: Any, mask: int, position: Sequence[Any]) -> Any:
    for axis, index in enumerate(position):
        if (mask >> axis) & 1:
            arg = jax.lax.dynamic_index_in_dim(arg, index, keepdims=False)
    return arg


def _op_sharding(flavour: Flavour, ctx: Any, sharding: Any) -> Any:
    axis_context = ctx.module_context.axis_context
    if sharding is None:
        return placement.op_sharding(ctx)
    if isinstance(axis_context, _jax.SPMDAxisContext):
        raise NotImplementedError(
            "callbacks do not support specifying sharding inside spmd computations"
        )
    if isinstance(axis_context, _jax.ShardingContext):
        return placement.op_sharding(ctx, _device_index(flavour, axis_context, sharding))
    return None


def _device_index(flavour: Flavour, axis_context: Any, sharding: Any) -> int:
    scalar_mesh = isinstance(sharding, NamedSharding) and sharding.mesh.size == 1
    if not scalar_mesh and not isinstance(sharding, SingleDeviceSharding):
        raise NotImplementedError(
            f"{flavour.public_name} only supports SingleDeviceSharding, but got {type(sharding)}"
        )
    device = next(iter(sharding.device_set))
    devices = list(axis_context.device_assignment)
    if device not in devices:
        raise ValueError(
            f"Sharding provided to {flavour.public_name} specifies a device {device} that is not in the "
            f"device assignment ({devices})"
        )
    return devices.index(device)
