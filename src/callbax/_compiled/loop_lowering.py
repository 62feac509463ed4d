"""The lowering of compiled loops: one custom call, cut between devices along its loop dimensions."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from callbax import _jax, _native, _start
from callbax._compiled.loop_names import LOOPS
from callbax._jax import per_shard, placement
from callbax._runtime import platforms, portable_calls
from callbax._runtime.platforms import Runtime


def lower(ctx: Any, *operands: Any, loop: Any, errors: Any, **_: Any) -> Any:
    attributes = _attributes(ctx, loop, errors)
    runtime = platforms.runtime_of(ctx.module_context.platforms, exporting=_jax.is_exporting(ctx))
    if not runtime.is_native:
        return _emit_portable(runtime, ctx, operands, loop, attributes)
    batch = loop.batch([aval.shape for aval in ctx.avals_in])
    if _jax.is_partitioned_automatically(ctx) and batch.may_be_cut:
        return per_shard.emit(ctx, operands, _start.LOOP_TARGET, attributes, batch)
    return jax.ffi.build_ffi_lowering_function(_start.LOOP_TARGET)(
        ctx, *operands, **attributes
    ).results


def _attributes(ctx: Any, loop: Any, errors: Any) -> dict[str, Any]:
    _start.prepare()
    registration = LOOPS.register(loop, exporting=_jax.is_exporting(ctx))
    _jax.keep_alive(ctx, registration)
    attributes: dict[str, Any] = {"loop": registration.name}
    if not loop.parallel:
        attributes["serial"] = np.bool_(True)
    if errors is not None:
        attributes["errors"] = str(errors)
    if _jax.device_count(ctx) > 1:
        attributes["shared_run"] = np.bool_(True)
    return attributes


def _emit_portable(
    runtime: Runtime, ctx: Any, operands: Any, loop: Any, attributes: dict[str, Any]
) -> Any:
    """On one device: JAX does not cut the calls that it makes."""
    results = portable_calls.emit(
        ctx,
        operands,
        _native.LoopSite,
        attributes,
        f"the compiled function {loop}",
        reason=runtime.reason,
        sharding=placement.op_sharding(ctx),
    )
    return placement.replicated(ctx, results) if _jax.is_partitioned_automatically(ctx) else results
