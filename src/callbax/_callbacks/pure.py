"""pure_callback: a host function without side effects."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from callbax._callbacks import primitives
from callbax._callbacks.batching import VMAP_METHODS
from callbax._callbacks.flavours import PURE
from callbax._jax import frames
from callbax._runtime.errors import describe_function


@frames.api_boundary
def pure_callback(
    callback: Callable[..., Any],
    result_shape_dtypes: Any,
    *args: Any,
    sharding: Any = None,
    vmap_method: str | None = None,  # as in JAX, whose programs are to pass a checker here, too
    **kwargs: Any,
) -> Any:
    """Calls a pure Python function on the host, also from inside compiled code.

    The callback gets NumPy arrays that it may keep and change. Being pure, it may be left out when
    nothing uses its result, called more than once, or moved.

    Args:
      callback: the host function. It is called as `callback(*args, **kwargs)` and returns a pytree
        of array-likes that matches `result_shape_dtypes`.
      result_shape_dtypes: pytree of objects with `shape` and `dtype`, such as
        `jax.ShapeDtypeStruct`; None and empty trees are allowed.
      *args: pytrees of arrays. PRNG keys arrive as their uint32 key data.
      sharding: a `SingleDeviceSharding`: where the callback runs in a sharded program (default:
        on its first device).
      vmap_method: how a batch is handled. "sequential" and None: one call for each lane, in order,
        in one native loop; "sequential_unrolled": the same; "expand_dims": one call, unbatched
        arguments get a leading axis of size 1; "broadcast_all": one call, unbatched arguments are
        repeated; "legacy_vectorized": one call, unbatched arguments stay as they are.
      **kwargs: keyword arguments for the callback, pytrees of arrays. `vectorized=True`, of JAX's
        older guide, means "legacy_vectorized" and is deprecated.

    Returns:
      A pytree of `jax.Array` with the structure, shapes and dtypes of `result_shape_dtypes`.

    Raises:
      ValueError: unknown `vmap_method`; a 64-bit result while x64 is disabled; under differentiation.
      jax.errors.JaxRuntimeError: the callback failed, or its result does not fit; see
        `callbax.original_exception`.

    >>> import jax, numpy as np, callbax
    >>> x = np.float32([1, 2])
    >>> jax.jit(lambda x: callbax.pure_callback(np.square, x, x))(x)
    Array([1., 4.], dtype=float32)
    """
    if "vectorized" in kwargs:
        vmap_method = _from_vectorized(kwargs.pop("vectorized"), vmap_method)
    if vmap_method not in VMAP_METHODS:
        raise ValueError(
            f"vmap_method must be one of the allowed methods {list(VMAP_METHODS)}, "
            f"but got: {vmap_method}; in the callback {describe_function(callback)}"
        )
    return primitives.call(
        PURE,
        callback,
        result_shape_dtypes,
        args,
        kwargs,
        sharding=sharding,
        vmap_method=vmap_method,
    )


def _from_vectorized(vectorized: Any, vmap_method: str | None) -> str:
    if vmap_method is not None:
        raise ValueError(
            "the vectorized and vmap_method arguments of pure_callback cannot be used together"
        )
    warnings.warn(
        "The vectorized argument of callbax.pure_callback is deprecated; use "
        "vmap_method='expand_dims' or 'sequential'.",
        DeprecationWarning,
        stacklevel=4,  # the boundary is between
    )
    return "legacy_vectorized" if vectorized else "sequential"
