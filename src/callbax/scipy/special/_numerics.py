"""What rules share: inverse functions, series, formulas that are safe where the obvious one is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import Rule


def negative(rule: Rule) -> Rule:
    """The derivative of minus the function, such as the complement of a distribution."""
    return lambda *args: -rule(*args)


def inverse(name: str, position: int, by_solved: Rule, by: Rule | None = None) -> Rule:
    """A derivative of SciPy's function of that name, which solves F(..., u, ...) = p for u.

    It takes the arguments of F, with p at the position of u. By the implicit function theorem
    ∂u/∂p = 1/F_u, and ∂u/∂v = -F_v/F_u for another argument v; F_u is `by_solved`, F_v is `by`.
    """

    def rule(*args: Any) -> Any:
        solved = getattr(special, name)(*args)
        at = (*args[:position], solved, *args[position + 1 :])
        return 1 / by_solved(*at) if by is None else -by(*at) / by_solved(*at)

    return rule


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


def horner(coefficients: Sequence[float], x: Any) -> Any:
    """The polynomial with these coefficients, the constant one first."""
    total = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


def known(x: Any) -> Any:
    """`x`, but 0 where it is NaN, because SciPy lacks one of several results there.

    The value is NaN then, and tells. A NaN in its derivative would reach the gradients of the other
    results too, as zero times NaN.
    """
    return jnp.where(jnp.isnan(x), 0, x)


def exprel_derivative(x: Any) -> Any:
    """That of exprel(x) = (eˣ - 1)/x: (eˣ - exprel(x))/x, and its Taylor series around 0."""
    small = abs(x) < 1
    taylor = horner([(k + 1) / math.factorial(k + 2) for k in range(20)], jnp.where(small, x, 0.0))
    x = jnp.where(small, 1.0, x)
    # x²eˣ would be ∞·0 at -∞, and ∞ - ∞ at ∞.
    finite = jnp.where(x == jnp.inf, 1.0, x)
    large = (jnp.exp(finite) - jnp.expm1(finite) / finite) / finite
    return jnp.where(small, taylor, jnp.where(x == jnp.inf, jnp.inf, large))


def power_mean_derivative(log_x: Any, power: Any) -> Any:
    """That of (xᵖ - 1)/p = log(x) exprel(p log x) by the power p, from log x."""
    # At x = 0 it is 1/p² for positive p.
    zero = (log_x == -jnp.inf) & (power > 0)
    finite = jnp.where(zero, -1.0, log_x)
    general = finite**2 * exprel_derivative(power * finite)
    return jnp.where(zero, 1 / jnp.where(zero, power, 1.0) ** 2, general)


def log_ratio(x: Any, y: Any) -> Any:
    """log(x/y), precise also where the two are nearly equal."""
    near = (x > y / 2) & (x < 2 * y)
    small = jnp.log1p(jnp.where(near, (x - y) / jnp.where(near, y, 1.0), 0.0))
    return jnp.where(near, small, jnp.log(x) - jnp.log(y))


def divide(x: Any, y: Any, at_zero: float) -> Any:
    """x/y, with another value where y is zero."""
    zero = y == 0
    return jnp.where(zero, at_zero, x / jnp.where(zero, 1.0, y))
