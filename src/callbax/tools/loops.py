"""The loops of jax.lax, with progress."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from callbax.tools._progress import Progress, as_progress
from callbax.tools._ticks import Counter


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    *,
    progress: str | bool | Progress | None = None,
) -> tuple[Any, Any]:
    """`jax.lax.scan`, with a bar for each run.

    Args:
      f, init, xs, length, reverse, unroll: as for `jax.lax.scan`.
      progress: the bar's label, or a `Progress`, or True for one without a label; None or False for
        no bar.

    Returns:
      What `jax.lax.scan` returns.

    Raises:
      TypeError: `progress` is something else; otherwise as `jax.lax.scan`.

    >>> import jax.numpy as jnp
    >>> from callbax import tools
    >>> total, sums = tools.scan(lambda c, x: (c + x, c + x), 0, jnp.arange(4), progress=None)
    >>> sums
    Array([0, 1, 3, 6], dtype=int32)
    """
    plain = functools.partial(jax.lax.scan, f, init, xs, length, reverse, unroll)
    shown = as_progress(progress)
    if shown is None:
        return plain()

    def counted() -> tuple[Any, Any]:
        leaves = jax.tree.leaves(xs)
        steps = leaves[0].shape[0] if leaves else length
        with Counter(shown, None if steps is None else (0, steps)) as counter:

            def step(state: Any, x: Any) -> Any:
                with counter.step(state[0]) as count:
                    carry, y = f(state[1], x)
                    return (count, carry), y

            start = counter.start, init
            (count, carry), ys = jax.lax.scan(step, start, xs, length, reverse, unroll)
            counter.end(count)
        return carry, ys

    return _or_plain(counted, plain)


def fori_loop(
    lower: Any,
    upper: Any,
    body_fun: Callable[[Any, Any], Any],
    init_val: Any,
    *,
    unroll: int | bool | None = None,
    progress: str | bool | Progress | None = None,
) -> Any:
    """`jax.lax.fori_loop`, with a bar for each run.

    Args:
      lower, upper, body_fun, init_val, unroll: as for `jax.lax.fori_loop`.
      progress: as for `scan`.

    Returns:
      What `jax.lax.fori_loop` returns.

    Raises:
      TypeError: `progress` is something else; otherwise as `jax.lax.fori_loop`.

    >>> from callbax import tools
    >>> tools.fori_loop(0, 5, lambda i, x: x + i, 0)
    Array(10, dtype=int32, weak_type=True)
    """
    plain = functools.partial(jax.lax.fori_loop, lower, upper, body_fun, init_val, unroll=unroll)
    shown = as_progress(progress)
    if shown is None:
        return plain()

    def counted() -> Any:
        with Counter(shown, (lower, upper)) as counter:

            def step(i: Any, state: Any) -> Any:
                with counter.step(state[0]) as count:
                    return count, body_fun(i, state[1])

            start = counter.start, init_val
            count, value = jax.lax.fori_loop(lower, upper, step, start, unroll=unroll)
            counter.end(count)
        return value

    return _or_plain(counted, plain)


def while_loop(
    cond_fun: Callable[[Any], Any],
    body_fun: Callable[[Any], Any],
    init_val: Any,
    *,
    progress: str | bool | Progress | None = None,
) -> Any:
    """`jax.lax.while_loop`, with a bar for each run.

    The total is that of the `Progress`, if it has one: the most steps that the loop may do. Under
    `vmap` a step is one of the lane that goes on for longest.

    Args:
      cond_fun, body_fun, init_val: as for `jax.lax.while_loop`.
      progress: as for `scan`.

    Returns:
      What `jax.lax.while_loop` returns.

    Raises:
      TypeError: `progress` is something else; otherwise as `jax.lax.while_loop`.

    >>> from callbax import tools
    >>> tools.while_loop(lambda x: x < 100, lambda x: 2 * x, 1)
    Array(128, dtype=int32, weak_type=True)
    """
    plain = functools.partial(jax.lax.while_loop, cond_fun, body_fun, init_val)
    shown = as_progress(progress)
    if shown is None:
        return plain()

    def counted() -> Any:
        with Counter(shown, None if shown.total is None else (0, shown.total)) as counter:

            def step(state: Any) -> Any:
                with counter.step(state[0]) as count:
                    return count, body_fun(state[1])

            start = counter.start, init_val
            count, value = jax.lax.while_loop(lambda state: cond_fun(state[1]), step, start)
            counter.end(count)
        return value

    return _or_plain(counted, plain)


def map(
    f: Callable[[Any], Any],
    xs: Any,
    *,
    batch_size: int | None = None,
    progress: str | bool | Progress | None = None,
) -> Any:
    """`jax.lax.map`, with a bar for each run.

    Args:
      f, xs: as for `jax.lax.map`.
      batch_size: as for `jax.lax.map`; a step is then a batch.
      progress: as for `scan`.

    Returns:
      What `jax.lax.map` returns.

    Raises:
      TypeError: `progress` is something else; otherwise as `jax.lax.map`.

    >>> import jax.numpy as jnp
    >>> from callbax import tools
    >>> tools.map(lambda x: x * x, jnp.arange(4))
    Array([0, 1, 4, 9], dtype=int32)
    """
    plain = functools.partial(jax.lax.map, f, xs, batch_size=batch_size)
    shown = as_progress(progress)
    if shown is None:
        return plain()

    def over(function: Callable[[Any], Any], xs: Any) -> Any:
        return scan(lambda _, x: ((), function(x)), (), xs, progress=shown)[1]

    if batch_size is None:
        return over(f, xs)
    try:
        size = jax.tree.leaves(xs)[0].shape[0]
        batches, rest = divmod(size, operator.index(batch_size) or size + 1)
        whole = size - rest
        in_batches = jax.tree.map(
            lambda x: x[:whole].reshape(batches, batch_size, *x.shape[1:]), xs
        )
    except _REFUSALS:
        return plain()
    if not batches:
        return jax.vmap(f)(xs)
    ys = over(jax.vmap(f), in_batches)
    ys = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), ys)
    if not rest:
        return ys
    last = jax.vmap(f)(jax.tree.map(lambda x: x[whole:], xs))
    return jax.tree.map(lambda y, z: jnp.concatenate([y, z]), ys, last)


_REFUSALS = (TypeError, ValueError, IndexError, AttributeError)


def _or_plain(counted: Callable[[], Any], plain: Callable[[], Any]) -> Any:
    """What JAX refuses, it refuses in words about the user's own state: those of `plain`."""
    try:
        return counted()
    except _REFUSALS:
        if not jax.config.jax_disable_jit:  # where it is, the exception may be one of the steps
            jax.eval_shape(plain)  # traced only: what a loop does, it does once
        raise
