"""Batch dimensions that a gufunc signature allows in front of the core dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from callbax._external.signature import Shape


def over_batch(
    function: Callable[[Sequence[Any]], list[Any]],
    leaves: Sequence[Any],
    batches: Sequence[Shape],
    batch: Shape,
) -> list[Any]:
    """`function` of the core arrays, over all batch dimensions, which broadcast.

    They are axes of `jax.vmap`, so that explicit batches and those of `vmap` go one way.

    Args:
      function: takes and returns flat lists.
      batches: what stands before the core dimensions of each leaf.
      batch: what they broadcast to.
    """
    if not batch:
        return function(leaves)
    aligned = []
    for leaf, own in zip(leaves, batches, strict=True):
        missing = len(batch) - len(own)
        repeated = [i for i, size in enumerate(own) if size == 1 and batch[i + missing] != 1]
        aligned.append(jnp.squeeze(leaf, repeated) if repeated else jnp.asarray(leaf))
    mapped = function
    for axis in reversed(range(len(batch))):
        has_axis = [_has_axis(own, batch, axis) for own in batches]
        mapped = _map(mapped, has_axis)
    return mapped(aligned)


def _has_axis(own: Shape, batch: Shape, axis: int) -> bool:
    index = axis - (len(batch) - len(own))
    return index >= 0 and own[index] == batch[axis]


def _map(
    function: Callable[[Sequence[Any]], list[Any]], has_axis: Sequence[bool]
) -> Callable[[Sequence[Any]], list[Any]]:
    axes = [0 if has else None for has in has_axis]
    return jax.vmap(function, in_axes=(axes,))
