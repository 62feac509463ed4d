"""The lowering of compiled loops: one custom call, which the compiler may cut between devices.

In a program on several devices the call is marked as independent along its loop dimensions, for
both partners that decide about it: Shardy, which chooses how values are distributed (a sharding
rule), and XLA's partitioner, which cuts the call (a target that is registered as partitionable
along leading dimensions). Then every device runs the loop on its own items, and nothing is gathered.
"""

from __future__ import annotations

import string
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from callbax import _jax, _native, _start
from callbax._compiled.loop_names import LOOPS
from callbax._jax import placement
from callbax._runtime import platforms, portable_calls
from callbax._runtime.platforms import Runtime


def register(primitive: Any, partitioned: Any) -> None:
    """Registers the lowerings of the two primitives that call loops."""
    _jax.register_lowering(primitive, partial(_lower, partitioned))
    _jax.register_lowering(partitioned, _lower_partitioned, platform="cpu")


def _lower(partitioned: Any, ctx: Any, *operands: Any, loop: Any, **params: Any) -> Any:
    runtime = platforms.runtime_of(ctx.module_context.platforms, exporting=_jax.is_exporting(ctx))
    if not runtime.is_native:
        return _emit_portable(runtime, ctx, operands, loop, params["errors"])
    rank = len(loop.loop_shape([aval.shape for aval in ctx.avals_in]))
    if not _jax.is_partitioned_automatically(ctx) or rank == 0 or not _can_be_cut(loop):
        return _emit(ctx, operands, loop, params["errors"])

    def with_all_dimensions(*args: Any) -> Any:
        return _bind_partitioned(partitioned, args, loop, params)

    return _jax.lower_fun(with_all_dimensions)(ctx, *operands)


def _can_be_cut(loop: Any) -> bool:
    # XLA's partitioner wants the first operand to have more than the loop dimensions. An elementwise
    # one can be given one more.
    return not loop.core or bool(loop.core[0])


def _bind_partitioned(partitioned: Any, args: Any, loop: Any, params: Any) -> Any:
    shape = loop.loop_shape([arg.shape for arg in args])
    end = () if loop.core else (1,)

    def widen(position: int, arg: Any) -> Any:
        core = arg.shape[arg.ndim - len(loop.core_of(position)) :] if loop.core else ()
        return jnp.broadcast_to(arg, (*shape, *core)).reshape(*shape, *core, *end)

    values = [widen(i, arg) for i, arg in enumerate(args)]
    results = partitioned.bind(*values, loop=loop, **params)
    return [result.reshape(result.shape[:-1]) if end else result for result in results]


def _lower_partitioned(ctx: Any, *operands: Any, loop: Any, errors: Any, **_: Any) -> Any:
    core = len(loop.core[0]) if loop.core else 1
    batch = ctx.avals_in[0].ndim - core
    return _emit(ctx, operands, loop, errors, batch)


def _emit(ctx: Any, operands: Any, loop: Any, errors: Any, batch: int = 0) -> Any:
    attributes = _attributes(ctx, loop, errors)
    extra: dict[str, Any] = {}
    if batch:
        extra["mhlo.frontend_attributes"] = _jax.string_attributes({"num_batch_dims": str(batch)})
    build = jax.ffi.build_ffi_lowering_function(_start.LOOP_TARGET, extra_attributes=extra)
    operation = build(ctx, *operands, **attributes)
    if batch:
        placement.set_sharding_rule(operation, _sharding_rule(ctx, batch))
    return operation.results


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


def _emit_portable(runtime: Runtime, ctx: Any, operands: Any, loop: Any, errors: Any) -> Any:
    """On one device: JAX does not cut the calls that it makes."""
    results = portable_calls.emit(
        ctx,
        operands,
        _native.LoopSite,
        _attributes(ctx, loop, errors),
        f"the compiled function {loop}",
        reason=runtime.reason,
        sharding=placement.op_sharding(ctx),
    )
    return placement.replicated(ctx, results) if _jax.is_partitioned_automatically(ctx) else results


def _sharding_rule(ctx: Any, batch: int) -> str:
    """Shardy's text: the leading dimensions go together, each of the others must be whole."""
    sizes: list[int] = list(ctx.avals_out[0].shape[:batch])
    whole: list[str] = []

    def factors(shape: tuple[int, ...]) -> str:
        names = [_factor(k) for k in range(batch)]
        for size in shape[batch:]:
            names.append(_factor(len(sizes)))
            whole.append(names[-1])
            sizes.append(size)
        return f"[{', '.join(names)}]"

    operands, results = (
        ", ".join(factors(aval.shape) for aval in avals) for avals in (ctx.avals_in, ctx.avals_out)
    )
    all_sizes = ", ".join(f"{_factor(k)}={size}" for k, size in enumerate(sizes))
    replicated = f" need_replication={{{', '.join(whole)}}}," if whole else ""
    return f"#sdy.op_sharding_rule<({operands})->({results}) {{{all_sizes}}}{replicated} custom>"


def _factor(number: int) -> str:
    """Shardy's names of factors: i, j, ..., z, z_1, z_2, ..."""
    letters = string.ascii_lowercase[8:]
    last = len(letters) - 1
    return letters[number] if number <= last else f"z_{number - last}"
