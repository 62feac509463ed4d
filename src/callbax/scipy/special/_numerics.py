"""What rules need where their formula has a removable singularity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp


def piecewise(
    condition: Any,
    inside: Callable[..., Any],
    outside: Callable[..., Any],
    args: Sequence[Any],
    inside_at: Sequence[Any],
    outside_at: Sequence[Any],
) -> Any:
    """`inside(*args)` where the condition holds, `outside(*args)` elsewhere.

    Neither function sees the arguments that belong to the other: it gets the harmless ones of
    `inside_at` or `outside_at` there. Otherwise an infinite derivative of the one that is not
    chosen would become NaN in the gradient, as zero times infinity.
    """

    def where(keep: Any, harmless: Sequence[Any]) -> list[Any]:
        return [jnp.where(keep, arg, at) for arg, at in zip(args, harmless, strict=True)]

    return jnp.where(
        condition,
        inside(*where(condition, inside_at)),
        outside(*where(~condition, outside_at)),
    )


def unless(condition: Any, f: Callable[[Any], Any], x: Any, harmless: Any) -> Any:
    """`f(x)`, but 0 where the condition holds; `f` gets a harmless argument there."""
    return jnp.where(condition, 0, f(jnp.where(condition, harmless, x)))


def even_series(coefficients: Sequence[float], x: Any) -> Any:
    """The polynomial in x² of these coefficients, that of x⁰ first."""
    return jnp.polyval(jnp.array(coefficients[::-1], jnp.result_type(x)), x * x)


def known(x: Any) -> Any:
    """`x`, but 0 where it is NaN, because SciPy lacks one of several results there.

    The value is NaN then, and tells. A NaN in its derivative would reach the gradients of the other
    results too, as zero times NaN.
    """
    return jnp.where(jnp.isnan(x), 0, x)
