"""Elementary functions that the rules share, safe where the obvious formula is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp


def horner(coefficients: Sequence[float], x: Any) -> Any:
    """The polynomial with these coefficients, the constant one first."""
    total = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


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
