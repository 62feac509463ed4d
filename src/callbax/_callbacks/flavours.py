"""The flavours of callback as a table of promises.

What differs between the flavours is written here and nowhere else; every rule reads it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from callbax import _jax
from callbax._jax.host_callback import HOST_CALLBACK_EFFECT


@dataclasses.dataclass(frozen=True, eq=False)
class Flavour:
    """One row of the table.

    Attributes:
      name: the primitive's name.
      public_name: the public function's, in messages.
      effect, ordered_effect: JAX's effect objects; no effect means that a call may be elided,
        repeated and reordered, any effect that it runs even if nothing uses its result.
      differentiable: transparent to autodiff: the primal call runs, tangents and cotangents pass by.
      jvp_error, transpose_error: what to say otherwise, of `{call}`.
      vmap_methods: whether the caller chooses one; without, lanes run one by one.
      vmap_ordered: whether an ordered call may be batched.
      unordered: the option by which an ordered call becomes one that may.
      canonical_eager: an eager call goes through the compiler, as everything else in JAX does. If
        not, the host function is called directly and its exception is the caller's.
      partial_auto: allowed in a program that is partitioned only in part by hand.
      saveable: a checkpoint policy decides about it, as about a value.
      recomputed: what a checkpoint does not save runs again in the second pass. If not, it runs in
        the first one only, whatever the policy says.
      of_jax: one of JAX's own callbacks, run by callbax (_install/). JAX's rules for loops and
        conditions treat its effects as they treat JAX's.
      informed: the host function is an `Informed` (_callbacks/informed.py), which learns how vmap
        batched it, in one call for the whole batch, and on which device it runs.
      masked_operand: which operand says whether a lane is live, if one does. Conditions and loops under
        `vmap` add to it what they know (_jax/live_lanes.py).
    """

    name: str
    public_name: str
    effect: Any
    ordered_effect: Any
    differentiable: bool
    jvp_error: str
    transpose_error: str
    vmap_methods: bool
    vmap_ordered: bool
    unordered: str
    canonical_eager: bool
    partial_auto: bool
    saveable: bool
    recomputed: bool = True
    of_jax: bool = False
    informed: bool = False
    masked_operand: int | None = None

    def effects(self, ordered: bool) -> Any:
        effect = self.ordered_effect if ordered else self.effect
        return _jax.NO_EFFECTS if effect is None else {effect}


PURE = Flavour(
    name="pure_callback",
    public_name="pure_callback",
    effect=None,
    ordered_effect=None,
    differentiable=False,
    jvp_error=(
        "Pure callbacks do not support JVP. "
        "Please use `jax.custom_jvp` to use callbacks while taking gradients. In the callback {call}."
    ),
    transpose_error=(
        "Pure callbacks do not support transpose. "
        "Please use `jax.custom_vjp` to use callbacks while taking gradients. In the callback {call}."
    ),
    vmap_methods=True,
    vmap_ordered=False,
    unordered="",
    canonical_eager=True,
    partial_auto=False,
    saveable=False,
)
IO = Flavour(
    name="io_callback",
    public_name="io_callback",
    effect=_jax.IO_EFFECT,
    ordered_effect=_jax.ORDERED_IO_EFFECT,
    differentiable=False,
    jvp_error="IO callbacks do not support JVP. In the callback {call}.",
    transpose_error="IO callbacks do not support transpose. In the callback {call}.",
    vmap_methods=False,
    vmap_ordered=False,
    unordered="ordered=False",
    canonical_eager=True,
    partial_auto=False,
    saveable=False,
)
DEBUG = Flavour(
    name="debug_callback",
    public_name="debug.callback",
    effect=_jax.DEBUG_EFFECT,
    ordered_effect=_jax.ORDERED_DEBUG_EFFECT,
    differentiable=True,
    jvp_error="",
    transpose_error="",
    vmap_methods=False,
    vmap_ordered=True,
    unordered="",
    canonical_eager=False,
    partial_auto=True,
    saveable=True,
)
_IN_THE_CALLBACK = " In the callback {call}."

# A compiled kernel (see _compiled/kernels.py): pure, with its own name in messages.
KERNEL = dataclasses.replace(
    PURE,
    name="native_kernel",
    public_name="native",
    jvp_error=(
        "Kernels do not support JVP. Give the call a derivative with `jax.custom_jvp` or "
        "`jax.custom_vjp`. In the callback {call}."
    ),
    transpose_error=(
        "Kernels do not support transpose. Give the call a derivative with `jax.custom_vjp`. In the "
        "callback {call}."
    ),
)


def _external(effects: str, like: Flavour, error: str) -> Flavour:
    return dataclasses.replace(
        like,
        name=f"external_{effects}" if like.effect else "external",
        public_name="external",
        vmap_methods=True,
        unordered="effects='io'",
        jvp_error=error,
        transpose_error=error,
    )


_NO_DERIVATIVE = (
    "The external function {call} has no derivative. Define one: by JAX code with defjvp, defjvps or "
    "defvjp; by host code with def_host_jvp or def_host_vjp; with def_transpose if it is linear; or "
    "make it with derivative='central' (numerical). Where none is wanted, pass its arguments through "
    "jax.lax.stop_gradient."
)
_NO_DERIVATIVE_OF_EFFECTS = (
    "The external function {{call}} has effects={!r}, so it has no derivative: the transformed program "
    "would run it another number of times. Pass its arguments through jax.lax.stop_gradient, or, if it "
    "only looks at values, use callbax.debug.callback, which derivatives pass by."
)

# callbax.host_callback: taps, which derivatives and batches reach, and calls, which refuse both.
TAP = dataclasses.replace(
    DEBUG,
    name="id_tap",
    public_name="host_callback.id_tap",
    effect=HOST_CALLBACK_EFFECT,
    ordered_effect=HOST_CALLBACK_EFFECT,
    canonical_eager=True,
    partial_auto=False,
    informed=True,
)
CALL = dataclasses.replace(
    IO,
    name="host_callback_call",
    public_name="host_callback.call",
    effect=HOST_CALLBACK_EFFECT,
    ordered_effect=HOST_CALLBACK_EFFECT,
    jvp_error=(
        "host_callback.call does not support JVP. Give the function that calls it a derivative with "
        "`jax.custom_jvp` or `jax.custom_vjp`. In the callback {call}."
    ),
    transpose_error=(
        "host_callback.call does not support transpose. Give the function that calls it a derivative "
        "with `jax.custom_vjp`. In the callback {call}."
    ),
    vmap_ordered=True,
    informed=True,
)

# Functions of callbax.external, by their effects=.
EXTERNAL = {
    "none": _external("none", PURE, _NO_DERIVATIVE),
    **{
        effects: _external(effects, IO, _NO_DERIVATIVE_OF_EFFECTS.format(effects))
        for effects in ("io", "ordered")
    },
    "debug": dataclasses.replace(
        _external("debug", DEBUG, ""), unordered="", canonical_eager=True, recomputed=False
    ),
    "ordered_debug": dataclasses.replace(
        _external("ordered_debug", TAP, ""), unordered="", recomputed=False, informed=False
    ),
}


def _of_jax(like: Flavour, public_name: str) -> Flavour:
    return dataclasses.replace(
        like,
        public_name=public_name,
        of_jax=True,
        jvp_error=like.jvp_error.removesuffix(_IN_THE_CALLBACK),
        transpose_error=like.transpose_error.removesuffix(_IN_THE_CALLBACK),
    )


# JAX's own callbacks, by the name of the public function, with JAX's words.
JAX = {
    name: _of_jax(like, name)
    for name, like in (
        ("jax.pure_callback", PURE),
        ("jax.io_callback", IO),
        ("jax.debug.callback", DEBUG),
    )
}

# debug.watch: a debug callback that is called once for a batch, whatever autodiff computes again. If
# it is ordered, it may be so on several devices, too.
WATCH = dataclasses.replace(
    DEBUG,
    name="watch",
    public_name="debug.watch",
    ordered_effect=HOST_CALLBACK_EFFECT,
    recomputed=False,
    informed=True,
    masked_operand=0,
)

FLAVOURS = (PURE, IO, DEBUG, KERNEL, *EXTERNAL.values(), *JAX.values(), TAP, CALL, WATCH)
