"""io_callback: a host function with side effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from callbax._callbacks import primitives
from callbax._callbacks.flavours import IO
from callbax._jax import frames


@frames.api_boundary
def io_callback(
    callback: Callable[..., Any],
    result_shape_dtypes: Any,
    *args: Any,
    sharding: Any = None,
    ordered: bool = False,
    **kwargs: Any,
) -> Any:
    """Calls a Python function with side effects on the host, also from inside compiled code.

    It runs exactly once for each execution, whether or not its result is used.

    Args:
      callback: the host function; it gets NumPy arrays that it may keep and change.
      result_shape_dtypes: as for `callbax.pure_callback`; None for a callback without result.
      *args: pytrees of arrays.
      sharding: as for `callbax.pure_callback`.
      ordered: keep the program's order among all ordered callbacks, JAX's own included. An ordered
        callback cannot be `vmap`-ed; in a program on several devices the order holds per device.
      **kwargs: keyword arguments for the callback, pytrees of arrays.

    Returns:
      A pytree of `jax.Array` with the structure, shapes and dtypes of `result_shape_dtypes`.

    Raises:
      ValueError: a 64-bit result while x64 is disabled; `vmap` of an ordered callback; a
        differentiated value reaches the callback.
      jax.errors.JaxRuntimeError: the callback failed, or its result does not fit; see
        `callbax.original_exception`.

    >>> import jax, callbax
    >>> seen = []
    >>> jax.jit(lambda x: callbax.io_callback(seen.append, None, x, ordered=True))(3)
    >>> callbax.effects_barrier()
    >>> seen
    [array(3, dtype=int32)]
    """
    return primitives.call(
        IO, callback, result_shape_dtypes, args, kwargs, sharding=sharding, ordered=ordered
    )
