"""What the public functions check: the callback, and the specification of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from callbax import _jax
from callbax._runtime.errors import describe_function

DECLARED = "result_shape_dtypes"


def check_callable(flavour: str, callback: Any, advice: str = "") -> None:
    if not callable(callback):
        raise TypeError(
            f"first argument to callbax.{flavour} must be callable, "
            f"but got an object of type {type(callback)}{advice}"
        )


def flatten_result_spec(
    spec: Any, callback: Any, declared: str = DECLARED
) -> tuple[tuple[Any, ...], Any]:
    """The abstract values of the leaves of what `declared` names in messages, and its tree.

    Raises:
      TypeError: a leaf has no shape or no dtype, or a shape in which a size is not known.
      ValueError: a leaf asks for a 64-bit type while x64 is disabled.
    """
    leaves, tree = jax.tree.flatten(spec)
    return avals_of(leaves, callback, declared), tree


def avals_of(leaves: Sequence[Any], callback: Any, declared: str = DECLARED) -> tuple[Any, ...]:
    """The abstract values of flat results; raises as `flatten_result_spec` does."""
    return tuple([_aval(leaf, callback, declared) for leaf in leaves])


def has_shape(leaf: Any) -> bool:
    return not isinstance(leaf, type) and hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def without_shape(leaf: Any, description: str, declared: str) -> TypeError:
    return TypeError(
        f"{declared} of the callback {description} must be a pytree of "
        "objects with a shape and a dtype, such as jax.ShapeDtypeStruct((3,), 'float32'), but "
        f"has {leaf!r} of type {type(leaf).__name__} in it."
        + (" It is the argument after the callback." if declared == DECLARED else "")
    )


class Struct(NamedTuple):
    """A flat result that is compared and hashed in no time."""

    shape: tuple[int, ...]
    dtype: Any


def structs_of(leaves: Sequence[Any]) -> tuple[Struct, ...] | None:
    """The flat results, if all are known to be well-formed."""
    if not all([type(leaf) in _WITH_SHAPE for leaf in leaves]):
        return None
    return tuple([Struct(leaf.shape, leaf.dtype) for leaf in leaves])


_WITH_SHAPE = frozenset({jax.ShapeDtypeStruct, _jax.ShapedArray, _jax.DeviceArray, np.ndarray})


# What most results are of: x64 or not, these are as they are.
_NEED_NO_CHECK = frozenset(map(np.dtype, (np.bool_, np.int32, np.uint8, np.float32)))


def _aval(leaf: Any, callback: Any, declared: str) -> Any:
    if not has_shape(leaf):
        raise without_shape(leaf, describe_function(callback), declared)
    if any(map(_is_unknown, leaf.shape)):
        raise TypeError(
            f"{declared} of the callback {describe_function(callback)} has the shape {leaf.shape}, but "
            "each size must be known when the program is traced. If it depends on values, return "
            "an array of the largest size that is possible, and how much of it counts"
        )
    if type(leaf) is jax.ShapeDtypeStruct and leaf.dtype in _NEED_NO_CHECK:
        return _jax.ShapedArray(leaf.shape, leaf.dtype)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
        return _jax.ShapedArray(leaf.shape, leaf.dtype)
    dtype = np.dtype(leaf.dtype)
    if _jax.canonical_dtype(dtype) != dtype:
        raise ValueError(
            f"{declared} cannot specify 64-bit types when `jax_enable_x64` is disabled: "
            f"the callback {describe_function(callback)} is to return {dtype}; ask for a 32-bit "
            "type, or enable x64"
        )
    return _jax.ShapedArray(leaf.shape, dtype)


def _is_unknown(size: Any) -> bool:
    return size is None or (isinstance(size, (int, np.integer)) and bool(size < 0))
