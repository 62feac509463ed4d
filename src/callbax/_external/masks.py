"""Calls for live lanes only: External.call_where.

The mask is an operand of the call, its first. So it is batched as the others are, and the host sees
the mask of all lanes beside their arguments. Derivative rules call other external functions; what
they call is masked alike, by the mask that is in force while the rule is traced.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from callbax._external.call import Call, Definition
from callbax._external.signature import Shape

_in_force: contextvars.ContextVar[Any] = contextvars.ContextVar("callbax_mask", default=None)


# A function under `jit` that is called in a rule is traced with the rule's mask, a tracer. JAX must
# not use that trace again elsewhere: it looks at this context, which is another one for each rule.
# Made at the first use, since another part of the key is one that no program so far has.
@functools.cache
def _trace_key() -> Any:
    return jax.make_user_context(None)


def current() -> Any:
    """The mask that is in force, a boolean scalar; None outside of masked rules."""
    return _in_force.get()


@contextlib.contextmanager
def entered(call: Call, leaves: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The leaves of a call without its mask, which is in force inside, if it has one."""
    if not call.masked:
        yield leaves
        return
    mask, *others = leaves
    token = _in_force.set(mask)
    try:
        with _trace_key()(object()):
            yield others
    finally:
        _in_force.reset(token)


def both(mask: Any, other: Any) -> Any:
    """Live in both, where None is live everywhere."""
    if mask is None or other is None:
        return mask if other is None else other
    return jnp.logical_and(mask, other)


def check_mask(mask: Any, where: str) -> Any:
    """The mask as a boolean array."""
    dtype = jax.dtypes.result_type(mask)
    if dtype != np.bool_:
        raise TypeError(
            f"the mask of call_where of {where} is of dtype {dtype}, but must be boolean: True for "
            "the lanes that are to be called; compare with something, as in x > 0"
        )
    return jnp.asarray(mask)


def batch_shapes(
    definition: Definition, shapes: list[Shape], names: Sequence[str], mask: Any
) -> list[Shape]:
    """The leading dimensions of each array of a call that are of its batch."""
    where, options = definition.description, definition.options
    if options.signature is not None:
        options.signature.bind(shapes, names, where)
        return options.signature.batch_shapes(shapes)
    if mask is None or not jnp.ndim(mask):
        return [()] * len(shapes)
    if options.elementwise:
        return shapes  # each element is a lane
    raise ValueError(
        f"the mask of call_where of {where} has the shape {jnp.shape(mask)}, but must be a "
        "scalar: one call is one lane. Use jax.vmap over mask and arguments together, or give the "
        "function a signature=, which says what its batch dimensions are."
    )


def _gated(mask: Any, leaf: Any) -> Any:
    """The leaf, whose derivatives are zero in dead lanes.

    There a rule in JAX code may compute anything, as 0 * inf; only a selection makes that zero. (It
    also gives each lane its own copy of what lanes share, so it is left out where it is not needed:
    the host's results, with which other rules compute, are zero in dead lanes.)
    """
    inexact = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    return jnp.where(mask, leaf, jax.lax.stop_gradient(leaf)) if inexact else leaf


def select(mask: Any, results: Any, otherwise: Any, batch_rank: int, where: str) -> Any:
    """`results` in live lanes, `otherwise` in dead ones.

    Args:
      mask: it broadcasts with the batch.
      otherwise: a pytree like `results`, or one value for all leaves.
      batch_rank: how many dimensions of the results are of the batch.
    """
    leaves, tree = jax.tree.flatten(results)
    others = jax.tree.leaves(otherwise)
    if jax.tree.structure(otherwise) != tree:
        if len(others) != 1 or not jax.tree_util.treedef_is_leaf(jax.tree.structure(otherwise)):
            raise TypeError(
                f"otherwise= of call_where of {where} has the structure "
                f"{jax.tree.structure(otherwise)}, but the result has {tree}; give one value, or a "
                "pytree like the result"
            )
        others = others * len(leaves)
    chosen = [
        _select_leaf(mask, leaf, other, batch_rank, where)
        for leaf, other in zip(leaves, others, strict=True)
    ]
    return jax.tree.unflatten(tree, chosen)


def _select_leaf(mask: Any, leaf: Any, other: Any, batch_rank: int, where: str) -> Any:
    if type(other) is int and other == 0:
        other = jnp.zeros((), leaf.dtype)  # a zero of booleans too
    if jnp.result_type(leaf, other) != leaf.dtype:
        raise TypeError(
            f"otherwise= of call_where of {where} has the dtype {jnp.result_type(other)}, which the "
            f"result's, {leaf.dtype}, cannot hold; convert it"
        )
    if not _broadcasts(jnp.shape(other), leaf.shape):
        raise ValueError(
            f"otherwise= of call_where of {where} has the shape {jnp.shape(other)}, which does not "
            f"broadcast to the result's, {leaf.shape}"
        )
    inner = leaf.ndim - batch_rank
    spread = jnp.reshape(mask, (*jnp.shape(mask), *(1,) * inner))
    return jnp.where(spread, leaf, jnp.asarray(other, leaf.dtype))


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    sizes = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (1, wanted) for size, wanted in sizes)


def apply(call: Call, function: Any, leaves: Sequence[Any]) -> list[Any]:
    """`function(call, leaves)` for a masked call, with derivatives that are zero in dead lanes.

    Traced even outside of `jit`, once for equal calls: rules are traced in a context of their own,
    in which nothing is found in JAX's caches.
    """
    return _jitted(call, function, list(leaves))


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _jitted(call: Call, function: Any, leaves: list[Any]) -> list[Any]:
    mask, *others = leaves
    if any(rule.is_jax_code for rule in call.definition.rules):
        others = [_gated(mask, leaf) for leaf in others]
    return function(call, [mask, *others])
