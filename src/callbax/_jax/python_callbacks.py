"""The gateway's part for platforms without a native runtime: JAX's own way to call Python.

The same in JAX 0.10.2 to 0.12, where it hands NumPy arrays to what it calls, and takes them back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import callback as _callback
from jax._src import core
from jax._src.interpreters import mlir

from callbax._jax import narrow_types


def emit(
    ctx: Any,
    function: Callable[..., Any],
    operands: Sequence[Any],
    *,
    effect: Any,
    has_side_effect: bool,
    partitioned: bool,
    sharding: Any,
) -> list[Any]:
    """A call of `function` with flat NumPy arrays, which returns a tuple of them.

    Args:
      effect: of an ordered call, whose token it takes and leaves.
      partitioned: it runs on each device with that device's part; it has no results then.
      sharding: how the call is placed. JAX adds what a token needs.

    Raises:
      Exception: JAX cannot call Python in a program for this platform, on this machine or in this
        way; the text is JAX's.
    """
    if ctx.module_context.platforms == ("tpu",):
        # A call has channels of its own there, which another that is equal must not share. This one may
        # be in JAX's cache already, but from now on nobody looks there.
        mlir._uncacheable_primitives.add(ctx.primitive)
    # What a call without data (float0) returns is booleans in the program.
    avals_out = [
        core.ShapedArray(aval.shape, np.bool_) if aval.dtype == jax.dtypes.float0 else aval
        for aval in ctx.avals_out
    ]
    sent, received = ctx.avals_in, avals_out
    if not narrow_types.UNPACKED_ON.issuperset(ctx.module_context.platforms):
        sent, received = map(narrow_types.widen_avals, (ctx.avals_in, avals_out))
        function = narrow_types.narrowed(function, ctx.avals_in, received)
    results, token, _ = _callback.emit_python_callback(
        dataclasses.replace(ctx, avals_out=received),
        function,
        None if effect is None else ctx.tokens_in.get(effect),
        narrow_types.convert(ctx, operands, ctx.avals_in, sent),
        sent,
        received,
        has_side_effect=has_side_effect,
        # On TPU a call without results is only waited for by its token.
        returns_token=True,
        partitioned=partitioned,
        sharding=sharding,
    )
    if effect is not None:
        ctx.set_tokens_out(ctx.tokens_in.update_tokens(mlir.TokenSet({effect: token})))
    return narrow_types.convert(ctx, results, received, avals_out)  # type: ignore[no-any-return]


def result_arrays(ctx: Any) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each result, as NumPy has it: key arrays are their data, float0 booleans."""
    avals = map(core.physical_aval, ctx.avals_out)
    return [
        (aval.shape, np.dtype(np.bool_) if aval.dtype == jax.dtypes.float0 else aval.dtype)
        for aval in avals
    ]
