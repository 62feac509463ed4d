"""The flavours of callback as a table of promises.

What differs between the flavours stands here and nowhere else; every rule reads it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from callbax import _jax


@dataclasses.dataclass(frozen=True)
class Flavour:
    """One row of the table.

    Attributes:
      name: the primitive's name.
      public_name: the public function's, in messages.
      effect, ordered_effect: JAX's effect objects; no effect means that a call may be elided,
        repeated and reordered, any effect that it runs even if nothing uses its result.
      differentiable: transparent to autodiff: the primal call runs, tangents and cotangents pass by.
      jvp_error, transpose_error: what to say otherwise.
      vmap_methods: whether the caller chooses one; without, lanes run one by one.
      vmap_ordered: whether an ordered call may be batched.
      canonical_eager: an eager call goes through the compiler, as everything else in JAX does. If
        not, the host function is called directly and its exception is the caller's.
      partial_auto: may stand in a program that is partitioned only in part by hand.
      saveable: a checkpoint policy decides about it, as about a value.
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
    canonical_eager: bool
    partial_auto: bool
    saveable: bool

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
        "Please use `jax.custom_jvp` to use callbacks while taking gradients."
    ),
    transpose_error=(
        "Pure callbacks do not support transpose. "
        "Please use `jax.custom_vjp` to use callbacks while taking gradients."
    ),
    vmap_methods=True,
    vmap_ordered=False,
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
    jvp_error="IO callbacks do not support JVP.",
    transpose_error="IO callbacks do not support transpose.",
    vmap_methods=False,
    vmap_ordered=False,
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
    canonical_eager=False,
    partial_auto=True,
    saveable=True,
)

# A compiled kernel (see interop/kernels.py): pure, with its own name in messages.
KERNEL = dataclasses.replace(
    PURE,
    name="native_kernel",
    public_name="native",
    jvp_error=(
        "Kernels do not support JVP. Give the call a derivative with `jax.custom_jvp` or "
        "`jax.custom_vjp`."
    ),
    transpose_error=(
        "Kernels do not support transpose. Give the call a derivative with `jax.custom_vjp`."
    ),
)

FLAVOURS = (PURE, IO, DEBUG, KERNEL)
