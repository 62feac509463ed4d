"""What the public functions check: the callback, and the specification of its result."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from callbax import _jax


def check_callable(flavour: str, callback: Any) -> None:
    if not callable(callback):
        raise TypeError(
            f"first argument to callbax.{flavour} must be callable, "
            f"but got an object of type {type(callback)}"
        )


def flatten_result_spec(spec: Any) -> tuple[tuple[Any, ...], Any]:
    """The abstract values of the leaves of `result_shape_dtypes`, and its tree.

    Raises:
      ValueError: a leaf asks for a 64-bit type while x64 is disabled.
    """
    leaves, tree = jax.tree.flatten(spec)
    return tuple(_aval(leaf) for leaf in leaves), tree


def _aval(leaf: Any) -> Any:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
        return _jax.ShapedArray(leaf.shape, leaf.dtype)
    dtype = np.dtype(leaf.dtype)
    if _jax.canonical_dtype(dtype) != dtype:
        raise ValueError(
            "result_shape_dtypes cannot specify 64-bit types when `jax_enable_x64` is disabled"
        )
    return _jax.ShapedArray(leaf.shape, dtype)
