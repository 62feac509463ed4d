"""every: the host is called on each n-th step only."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

import callbax


def every(
    n: Any,
    step: Any,
    function: Callable[..., Any],
    *args: Any,
    ordered: bool = False,
    vmap_method: Literal["sequential", "expand_dims", "broadcast_all"] = "sequential",
) -> None:
    """Calls a host function in those steps whose number is a multiple of `n`.

    In the others the program compares two numbers, and the host is not called. It only looks on:
    derivatives pass it by, `jax.checkpoint` does not repeat it, and what the function returns is
    ignored. Its exceptions are those of the program.

    Args:
      n: every how many steps, an integer of 1 or more.
      step: the number of the step, an integer; under `vmap` perhaps another one for each lane. Then
        the function is called for those lanes whose turn it is.
      function: the host function; it gets NumPy arrays that it may keep and change.
      *args: pytrees of arrays; leaves that are not arrays (strings, functions) are passed as they are.
      ordered: keep the program's order among such calls.
      vmap_method: how a batch reaches the function: "sequential", a call for each lane;
        "expand_dims" and "broadcast_all", one call for all, as for `callbax.external`.

    Raises:
      TypeError: `step` or `n` is not one integer; `function` is not callable.
      ValueError: `n` is less than 1; another `vmap_method`.
      jax.errors.JaxRuntimeError: the function failed; see `callbax.original_exception`.

    >>> import jax, jax.numpy as jnp
    >>> from callbax import tools
    >>> def step(x, i):
    ...     tools.every(2, i, print, "step", i, "has", x)
    ...     return 2 * x, None
    >>> jax.jit(lambda x: jax.lax.scan(step, x, jnp.arange(5))[0])(1)
    step 0 has 1
    step 2 has 4
    step 4 has 16
    Array(32, dtype=int32, weak_type=True)
    """
    if not callable(function):
        raise TypeError(f"function={function!r} is not callable")
    number = _integer("step", step)
    if isinstance(n, jax.Array):
        _integer("n", n)
    if not isinstance(n, jax.core.Tracer):
        if not hasattr(n, "__index__"):
            raise TypeError(f"n={n!r} is not an integer")
        if (n := operator.index(n)) < 1:
            raise ValueError(f"n={n} is less than 1")
    call = callbax.external(
        _Call(function),
        result=None,
        effects="ordered_debug" if ordered else "debug",
        vmap_method=vmap_method,
    )
    due = _is_multiple(number, n)
    if not isinstance(due, jax.core.Tracer):  # a condition would be compiled for each call
        if due:
            call(*args)
        return
    # The mask is for `vmap`: with one condition for each lane, JAX runs both branches for all lanes.
    jax.lax.cond(due, lambda: call.call_where(due, *args), lambda: None)


def _integer(name: str, value: Any) -> jax.Array:
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is not an integer: {error}") from None
    if array.ndim or not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} is {array.dtype}{list(array.shape)}, but one integer is expected")
    return array


def _is_multiple(number: jax.Array, n: Any) -> jax.Array:
    """Whether n divides the number. JAX would convert each to the other's type, which may be narrower."""
    if isinstance(n, int):
        if n > jnp.iinfo(number.dtype).max:
            return number == 0
        return number % jnp.asarray(n, number.dtype) == 0
    number, n = (
        _magnitude(x, max(number.dtype.itemsize, n.dtype.itemsize, 4)) for x in (number, n)
    )
    return number % n == 0


def _magnitude(x: jax.Array, size: int) -> jax.Array:
    """Its absolute value as an unsigned integer of so many bytes."""
    if jnp.issubdtype(x.dtype, jnp.signedinteger):
        x = jnp.abs(x.astype(f"int{8 * size}"))
    return x.astype(f"uint{8 * size}")


@dataclasses.dataclass(frozen=True)
class _Call:
    """The function, without what it returns; its name is that of the function."""

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        for name in ("__qualname__", "__name__", "__code__"):
            if hasattr(self.function, name):
                object.__setattr__(self, name, getattr(self.function, name))
        object.__setattr__(self, "__wrapped__", self.function)

    def __call__(self, *args: Any) -> None:
        self.function(*args)
