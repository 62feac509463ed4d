"""The gateway's part for 2-bit and 4-bit types in programs that call Python by JAX's own way.

XLA packs several of their values into a byte on GPUs, where JAX 0.10 to 0.12 read and write a byte for
each: values come out wrong, with no error. So outside of CPU they travel as wider types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import core
from jax._src import dtypes as _dtypes
from jax._src.interpreters import mlir

UNPACKED_ON = {"cpu"}  # platforms where each value has a byte of its own


def wider(dtype: Any) -> np.dtype | None:
    """The type in which values of a packed type travel; None for other types."""
    if dtype == jax.dtypes.float0 or jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return None
    if _dtypes.itemsize_bits(dtype) >= 8:
        return None
    if jax.dtypes.issubdtype(dtype, np.floating):
        return np.dtype(np.float32)
    return np.dtype(np.int8 if jax.dtypes.issubdtype(dtype, np.signedinteger) else np.uint8)


def widen_avals(avals: Sequence[Any]) -> list[Any]:
    """Abstract values, as they travel."""
    return [
        aval if (wide := wider(aval.dtype)) is None else aval.update(dtype=wide) for aval in avals
    ]


def convert(ctx: Any, values: Sequence[Any], before: Sequence[Any], after: Sequence[Any]) -> Any:
    """The values of a program with their types changed from those of `before` to those of `after`."""

    def converted(value: Any, old: Any, new: Any) -> Any:
        if old.dtype == new.dtype:
            return value
        rule = mlir.lower_fun(
            lambda x: jax.lax.convert_element_type(x, new.dtype), multiple_results=False
        )
        own = {"primitive": None, "tokens_in": mlir.TokenSet(), "tokens_out": None}
        (result,) = rule(ctx.replace(avals_in=[old], avals_out=[new], **own), value)
        return result

    return list(map(converted, values, before, after))


def narrowed(function: Callable[..., Any], avals_in: Sequence[Any], wide_out: Sequence[Any]) -> Any:
    """`function`, for arguments and results that travel as wider types."""
    narrow = [aval.dtype if wider(aval.dtype) else None for aval in avals_in]
    wide = [aval.dtype for aval in map(core.physical_aval, wide_out)]

    def call(*arrays: Any) -> tuple[np.ndarray, ...]:
        results = function(
            *(
                array if dtype is None else np.asarray(array).astype(dtype)
                for array, dtype in zip(arrays, narrow, strict=True)
            )
        )
        return tuple(
            result.astype(dtype, copy=False) for result, dtype in zip(results, wide, strict=True)
        )

    return call
