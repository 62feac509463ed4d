"""JAX's `emit_python_callback`, by which libraries call Python from lowering rules of their own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from callbax import _jax
from callbax._callbacks.flavours import IO, PURE, Flavour
from callbax._callbacks.lower_callback import emit
from callbax._install import state
from callbax._jax import jax_callbacks
from callbax._runtime import failure_log

# By whether it has a side effect.
_FLAVOURS: dict[bool, Flavour] = {
    has_side_effect: dataclasses.replace(
        IO if has_side_effect else PURE,
        public_name="jax.emit_python_callback",
        ordered_effect=jax_callbacks.TOKEN,
        of_jax=True,
    )
    for has_side_effect in (False, True)
}
failure_log.log_as_jax("jax.emit_python_callback", None)


@functools.wraps(jax_callbacks.jax_emit)
def emit_natively(
    ctx: Any,
    callback: Callable[..., Any],
    token: Any,
    operands: Sequence[Any],
    operand_avals: Sequence[Any],
    result_avals: Sequence[Any],
    *,
    has_side_effect: bool,
    returns_token: bool = True,
    partitioned: bool = False,
    sharding: Any = None,
) -> tuple[Any, Any, Any]:
    """The same on callbax's runtime, in programs for one CPU device; elsewhere JAX's.

    On several devices the caller alone knows where the call is to run. JAX's own callbacks come here
    if they are to be left to JAX.
    """
    if (
        state.arguments() is None
        or tuple(ctx.module_context.platforms) != ("cpu",)
        or _jax.device_count(ctx) > 1
        or jax_callbacks.is_of_jax(ctx.primitive)
    ):
        return jax_callbacks.jax_emit(  # type: ignore[no-any-return]
            ctx,
            callback,
            token,
            operands,
            operand_avals,
            result_avals,
            has_side_effect=has_side_effect,
            returns_token=returns_token,
            partitioned=partitioned,
            sharding=sharding,
        )
    inner = jax_callbacks.with_token(ctx, token, operand_avals, result_avals)
    results = emit(
        _FLAVOURS[has_side_effect], inner, callback, *operands, ordered=token is not None
    )
    return results, None if token is None else inner.tokens_out.get(jax_callbacks.TOKEN), callback
