"""lower_callback: a host function in the lowering rule of somebody else's primitive."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax

from callbax._callbacks import lowering
from callbax._callbacks.batching import NO_LANES
from callbax._callbacks.flavours import IO, PURE, Flavour
from callbax._callbacks.results import check_callable
from callbax._host.call import HostCall
from callbax._host.structure import Structure

Effects = Literal["none", "io", "ordered"]

_NAME = "lower_callback"


def lower_callback(
    ctx: Any,
    callback: Callable[..., Any],
    *operands: Any,
    effects: Effects = "none",
    partitioned: bool = False,
    sharding: Any = None,
) -> list[Any]:
    """Emits a call of a host function, in the lowering rule of a primitive.

    For libraries that define primitives, in place of JAX's `mlir.emit_python_callback`. It works on
    every platform that callbax's callbacks work on, and with their promises.

    Args:
      ctx: what JAX gives to the rule. The call has operands as `ctx.avals_in` and results as
        `ctx.avals_out` say; for others, give `ctx.replace(avals_in=..., avals_out=...)`.
      callback: the host function. It gets a NumPy array for each operand, which it may keep and
        change, and returns an array-like for each result: one, or a sequence of them. An importable
        function has a stable name, and equal functions equal programs.
      *operands: the values that JAX gives to the rule.
      effects: "none": it may be left out, repeated and moved, as `callbax.pure_callback`; "io": it runs
        once whenever the program comes by, used or not; "ordered": also in the program's order,
        by the ordered effect that the primitive has.
      partitioned: for a call without results in a sharded program: once on each device with its
        own shard, without a gather.
      sharding: as for `callbax.pure_callback`.

    Returns:
      A list of MLIR values, one for each result: what the rule returns.

    Raises:
      TypeError: `callback` cannot be called.
      ValueError: unknown `effects`; "ordered" where the primitive has not just one ordered effect.
      NotImplementedError: in a program that is partitioned only in part by hand.

    >>> import jax, numpy as np, callbax
    >>> from jax.extend.core import Primitive
    >>> from jax.interpreters import mlir
    >>> cube_p = Primitive("cube")
    >>> _ = cube_p.def_abstract_eval(lambda x: x)
    >>> mlir.register_lowering(cube_p, lambda ctx, x: callbax.lower_callback(ctx, cube, x))
    >>> def cube(x):
    ...     return x**3
    >>> jax.jit(cube_p.bind)(np.float32([1, 2]))
    Array([1., 8.], dtype=float32)
    """
    check_callable(_NAME, callback)
    if effects not in get_args(Effects):
        raise ValueError(f"effects must be 'none', 'io' or 'ordered', but is {effects!r}")
    flavour = dataclasses.replace(PURE if effects == "none" else IO, public_name=_NAME)
    if effects == "ordered":
        flavour = dataclasses.replace(flavour, ordered_effect=_ordered_effect(ctx))
    return emit(
        flavour,
        ctx,
        callback,
        *operands,
        ordered=effects == "ordered",
        partitioned=partitioned,
        sharding=sharding,
    )


def emit(
    flavour: Flavour,
    ctx: Any,
    callback: Callable[..., Any],
    *operands: Any,
    ordered: bool,
    partitioned: bool = False,
    sharding: Any = None,
) -> list[Any]:
    """The lowering of a call with flat arguments, by a flavour without a primitive of its own."""
    flat = Structure(jax.tree.structure(((0,) * len(operands), {})))
    results = lowering.lower(
        flavour,
        None,
        ctx,
        *operands,
        host_call=HostCall.of(callback, flat),
        ordered=ordered,
        partitioned=partitioned,
        sharding=sharding,
        lanes=NO_LANES,
    )
    return list(results)


def _ordered_effect(ctx: Any) -> Any:
    effects = list(ctx.tokens_in.effects())
    if len(effects) != 1:
        raise ValueError(
            f"effects='ordered' is for a primitive with one ordered effect, but {ctx.primitive} has "
            f"{len(effects)}. Declare one with def_effectful_abstract_eval, and tell JAX that it is "
            "ordered and may be lowered."
        )
    return effects[0]
