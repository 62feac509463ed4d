"""The gateway's part for several devices: where a call runs, over what its results vary."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jax
from jax._src import config as _config
from jax._src import core, sharding_impls
from jax._src.interpreters import mlir
from jax._src.lib import xla_client as _xla_client

from callbax import _jax


def set_sharding(module_context: Any, operation: Any, sharding: Any) -> None:
    """Annotates an operation. JAX 0.10.0 takes no module context, 0.10.2 and later do."""
    if _TAKES_CONTEXT:
        mlir.set_sharding(module_context, operation, sharding)
    else:
        mlir.set_sharding(operation, sharding)


_TAKES_CONTEXT = "ctx" in inspect.signature(mlir.set_sharding).parameters


# XLA's partitioner keeps the placement of a custom call only under names that it knows for host
# callbacks (xla::sdy::isPythonCallbackCustomCall, and the partitioner registered for the partitioned
# name); of any other call it drops the annotation, and then runs it on every device. Callbax's handlers
# take those that are free. This one is an older one of JAX's, which nobody has on any platform.
PLACED_TARGET = "xla_python_gpu_callback"
# Of the partitioned names each platform's own is JAX's, and that of the other is free.
PARTITIONED_TARGET = "xla_ffi_partitioned_python_gpu_callback"
ON_CUDA = {PARTITIONED_TARGET: "xla_ffi_partitioned_python_cpu_callback"}


def partitioned_target(ctx: Any, callee: Any) -> str:
    """The name of a call on each device, on the platform of the program that is lowered.

    Args:
      callee: what is called, by its `str`.

    Raises:
      NotImplementedError: the program is for several platforms, and these have different names.
    """
    platforms = ctx.module_context.platforms
    if "cuda" in platforms and len(platforms) > 1:
        raise NotImplementedError(
            f"each device calls {callee}, in a program for several platforms ({', '.join(platforms)}). "
            "XLA knows such calls by other names on cuda than elsewhere: export a program for each."
        )
    return ON_CUDA[PARTITIONED_TARGET] if _jax.is_for_cuda(ctx) else PARTITIONED_TARGET


def uses_shardy() -> bool:
    """JAX 0.10 can still be told to use the older partitioner (`jax_use_shardy_partitioner`)."""
    flag = getattr(_config, "use_shardy_partitioner", None)
    return flag is None or bool(flag.value)


def _whole(rank: int, devices: tuple[int, ...] = ()) -> Any:
    """That a value is not cut in any dimension, and is on these devices; on all, if none is given."""
    closed = sharding_impls.SdyDim(axes=(), is_open=False)
    return sharding_impls.SdyArray(
        mesh_shape=(), dim_shardings=(closed,) * rank, logical_device_ids=devices
    )


def _per_device_op_sharding(avals: Sequence[Any]) -> Any:
    """The op runs on each device on that device's own values (fully manual programs)."""
    if not uses_shardy():
        manual = _xla_client.OpSharding()
        manual.type = _xla_client.OpSharding.Type.MANUAL
        return manual
    ranks = [aval.ndim for aval in avals if isinstance(aval, core.ShapedArray)] if avals else [0]
    return sharding_impls.SdyArrayList(tuple(map(_whole, ranks)))


def _single_device_op_sharding(device_index: int, results: int) -> Any:
    """The op runs once, on the device of that index, on the whole values."""
    if not uses_shardy():
        maximal = _xla_client.OpSharding()
        maximal.type = _xla_client.OpSharding.Type.MAXIMAL
        maximal.tile_assignment_dimensions = [1]
        maximal.tile_assignment_devices = [device_index]
        return maximal
    return sharding_impls.SdyArrayList((_whole(0, (device_index,)),) * max(1, results))


def op_sharding(ctx: Any, device_index: int = 0) -> Any:
    """How the compiler places a call: per device, on one device, or unannotated."""
    context = ctx.module_context.axis_context
    if isinstance(context, sharding_impls.SPMDAxisContext):
        return _per_device_op_sharding(ctx.avals_out)
    if isinstance(context, sharding_impls.ShardingContext):
        return _single_device_op_sharding(device_index, len(ctx.avals_out))
    return None


def replicated(ctx: Any, values: Sequence[Any]) -> list[Any]:
    """Results of a call on one device, for every device of the program.

    Else the program could return what only one device has, with a sharding that no other program
    takes. The compiler brings values from the device that has them in any case, as soon as they are
    used.
    """
    brought = []
    for value, aval in zip(values, ctx.avals_out, strict=True):
        if uses_shardy():
            everywhere: Any = _whole(mlir.ir.RankedTensorType(value.type).rank)
        else:
            everywhere = _xla_client.HloSharding.replicate().to_proto()
        brought.append(mlir.wrap_with_sharding_op(ctx, value, aval, everywhere))
    return brought


_TOKENS_ARE_PLACED = (0, 10, 2)


def with_token_sharding(sharding: Any) -> Any:
    """Adds the annotation that a leading token result needs.

    From JAX 0.10.2 on it names the device; the XLA of earlier ones refuses such a token.
    """
    if not isinstance(sharding, sharding_impls.SdyArrayList):
        return sharding
    placed = jax.__version_info__ >= _TOKENS_ARE_PLACED
    devices = sharding.shardings[0].logical_device_ids if placed else ()
    return sharding_impls.SdyArrayList((_whole(0, devices), *sharding.shardings))


def vary_alike(values: Sequence[Any], like: Sequence[Any] = ()) -> list[Any]:
    """`values`, each varying over the manual axes that any of them, or of `like`, varies over.

    Else JAX takes the result of a call for the same on all devices, and sums cotangents wrongly.
    """
    axes = _varying([jax.typeof(value) for value in (*values, *like)])
    if not axes:
        return list(values)
    varying = []
    for value in values:
        missing = tuple(axes - _varying([jax.typeof(value)]))
        varying.append(jax.lax.pcast(value, missing, to="varying") if missing else value)
    return varying


def aval_varying_as(struct: Any, avals: Sequence[Any]) -> Any:
    """The abstract value of `struct`, varying over the manual axes that any of `avals` has."""
    return core.ShapedArray(
        struct.shape,
        struct.dtype,
        sharding=getattr(struct, "sharding", None) or core.get_cur_mesh_sharding(),
        manual_axis_type=core.ManualAxisType(varying=_varying(avals)),
    )


def _varying(avals: Sequence[Any]) -> frozenset[Any]:
    return frozenset().union(
        *(aval.mat.varying for aval in avals if isinstance(aval, core.ShapedArray))
    )
