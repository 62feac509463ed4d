"""debug.on_gradient: values whose cotangents are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from callbax import _jax
from callbax._host.function import Hashable
from callbax._host.structure import Structure
from callbax._jax import frames
from callbax._jax.transposition import define_watched


@frames.api_boundary
def on_gradient(x: Any, function: Callable[..., None], *args: Any) -> Any:
    """`x`, whose gradient `function` gets to see in reverse mode.

    Args:
      x: a pytree. Its leaves that are not arrays of floating-point or complex numbers have no
        gradient.
      function: called as `function(gradient, *args)` while the backward pass is traced, with arrays
        in the structure of `x`, and None where there is no gradient. It is JAX code, which may use
        `callbax.debug`; what it returns is ignored. Under `vmap` it is traced for one lane, and
        `debug.watch` in it looks at the lanes that were live in the forward pass. It is a part of the
        key of compiled programs: to share these, give functions that compare equal.
      *args: what else it is to know of the forward pass, which it must not close over: pytrees, of
        which leaves that are not arrays are passed as they are.

    Returns:
      `x`, in which arrays that have a gradient are jax Arrays.

    Raises:
      TypeError: `function` cannot be called.

    >>> import jax, callbax
    >>> def show(gradient):
    ...     callbax.debug.print("gradient = {}", gradient)
    >>> jax.grad(lambda x: callbax.debug.on_gradient(x, show) ** 2)(3.0)
    gradient = 6.0
    Array(6., dtype=float32, weak_type=True)
    """
    if not callable(function):
        raise TypeError(f"function= of debug.on_gradient must be callable, but it is {function!r}")
    leaves, tree = jax.tree.flatten(x)
    places = tuple(i for i, leaf in enumerate(leaves) if _has_gradient(leaf))
    if not places:
        return x
    other_leaves, other_tree = jax.tree.flatten((args, {}))
    structure, others = Structure.split(other_tree, other_leaves)
    watched = _watched(
        *(leaves[i] for i in places),
        *others,
        count=len(places),
        function=Hashable(function),
        tree=tree,
        places=places,
        structure=structure,
    )
    for i, leaf in zip(places, watched, strict=True):
        leaves[i] = leaf
    return tree.unflatten(leaves)


def _has_gradient(leaf: Any) -> bool:
    if not _jax.is_array_like(leaf):
        return False
    return jnp.issubdtype(jax.dtypes.result_type(leaf), jnp.inexact)


def _see(
    cotangents: Sequence[Any],
    others: Sequence[Any],
    *,
    function: Hashable,
    tree: Any,
    places: tuple[int, ...],
    structure: Structure,
) -> None:
    leaves: list[Any] = [None] * tree.num_leaves
    for i, cotangent in zip(places, cotangents, strict=True):
        leaves[i] = cotangent
    args, _ = structure.unflatten(others)
    function.value(tree.unflatten(leaves), *args)


_watched = define_watched("watched", _see)
