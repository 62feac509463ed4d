"""Errors out of compiled code: raise_if, and calls that raise them as they are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from callbax import debug, effects_barrier, reraise
from callbax.tools._places import add_note, describe_place, line_of_caller

_Function = TypeVar("_Function", bound=Callable[..., Any])


def raise_if(x: Any, predicate: Any, error: Callable[..., BaseException], *values: Any) -> Any:
    """`x`, unless `predicate` holds: then the program fails with an exception.

    The check runs wherever the program comes by, whether `x` is used or not; autodiff passes it by,
    and `jax.checkpoint` does not repeat it. While nothing fails it costs the predicate and a branch.
    Under `vmap` one exception speaks for the batch: it is made of the first lane for which the
    predicate holds, and a note names the others.

    Args:
      x: anything; it is returned as it is.
      predicate: a boolean array; one true element is enough.
      error: an exception class, or a function that makes an exception. It is called on the host as
        `error(*values)`.
      *values: pytrees. It gets their arrays as NumPy's, of one lane; what is not an array, such as a
        string, as it is.

    Returns:
      `x`.

    Raises:
      TypeError: `predicate` is not boolean; `error` is an exception, or cannot be called.
      Exception: what `error` makes, from the call itself in eager code, and where the function is
        `checked`. Otherwise JAX's error carries it, see `callbax.reraise`.

    >>> import jax, callbax
    >>> @checked
    ... @jax.jit
    ... def sqrt(x):
    ...     x = raise_if(x, x < 0, lambda x: ValueError(f"no root of {x}"), x)
    ...     return jax.numpy.sqrt(x)
    >>> try:
    ...     sqrt(-4.0)
    ... except ValueError as error:
    ...     print(error)
    no root of -4.0
    """
    _check_error(error)
    predicate = jnp.asarray(predicate)
    if predicate.dtype != np.bool_:
        raise TypeError(
            f"the predicate of raise_if is of dtype {predicate.dtype}, but must be boolean; compare "
            "with something, as in x < 0"
        )
    debug.watch(_raise, error, line_of_caller(), values, when=predicate.any(), quiet=True)
    return x


def _check_error(error: Any) -> None:
    if isinstance(error, BaseException):
        raise TypeError(
            f"raise_if takes a class and the values for it, so that each failure has an exception of "
            f"its own: {type(error).__name__}, {', '.join(map(repr, error.args))}; but it got {error!r}"
        )
    is_wrong_class = isinstance(error, type) and not issubclass(error, BaseException)
    if is_wrong_class or not callable(error):
        raise TypeError(
            f"the error of raise_if is an exception class, or a function that makes an exception; but it "
            f"got {error!r}"
        )


def _raise(batch: debug.Batch, error: Any, where: str, values: Any) -> None:
    lane = tuple(np.argwhere(batch.live)[0])
    try:
        arguments = jax.tree.map(lambda leaf: leaf[lane] if _is_array(leaf) else leaf, values)
        exception = error(*arguments)
    except Exception as failure:
        add_note(failure, f"callbax: raised by what should make the error of raise_if at {where}")
        raise
    if not isinstance(exception, BaseException):
        raise TypeError(
            f"the error of raise_if at {where} must make an exception, but it returned "
            f"{type(exception).__name__}"
        )
    if not values and not exception.args:
        BaseException.__init__(exception, f"the predicate of raise_if at {where} holds")
    add_note(exception, f"callbax: raised by raise_if at {where}{describe_place(batch)}")
    raise exception


def _is_array(leaf: Any) -> bool:
    """Whether it comes from the program: arrays of objects and strings do not."""
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "OSUMm"


def checked(function: _Function) -> _Function:
    """A jitted function that raises a callback's own exception itself, at the call.

    It waits for the results and effects of each call, so that none fails later. In traced code it is
    the function itself.

    Args:
      function: what `jax.jit` or `jax.pmap` returned, or any function that calls such ones.

    Returns:
      A function with the same arguments and results.

    >>> import jax
    >>> @checked
    ... @jax.jit
    ... def positive(x):
    ...     return raise_if(x, x <= 0, ArithmeticError, "not positive")
    >>> try:
    ...     positive(0.0)
    ... except ArithmeticError as error:
    ...     print(error)
    not positive
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with reraise():
            results = function(*args, **kwargs)
            if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(results)):
                jax.block_until_ready(results)
                effects_barrier()
            return results

    return call  # type: ignore[return-value]
