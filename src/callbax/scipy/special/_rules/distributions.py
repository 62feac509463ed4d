"""Distributions that are neither of the gamma nor of the beta kind."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, NotDifferentiable, derivatives
from callbax.scipy.special._numerics import exprel_derivative

_PI = 3.141592653589793
_SQRT_2PI = (2 * _PI) ** 0.5


def _kolmogorov(y: Any) -> Any:
    """The derivative of 2 Σ (-1)^(k-1) exp(-2k²y²), a theta function; for small y of the series
    that Jacobi's transformation (DLMF 20.7.32) gives, 1 - (√2π/y) Σ exp(-(2k-1)²π²/(8y²)).
    """
    small, zero = y < 1, y <= 0
    y_ = jnp.where(small, 1.0, jnp.minimum(y, 100.0))  # all zero from there on
    large = sum((-1) ** k * 8 * k * k * y_ * jnp.exp(-2 * (k * y_) ** 2) for k in range(1, 6))
    y_ = jnp.where(small & ~zero, y, 1.0)
    rates = [((2 * k - 1) * _PI) ** 2 / 8 for k in range(1, 5)]
    near = sum((1 - 2 * r / (y_ * y_)) * jnp.exp(-r / (y_ * y_)) for r in rates)
    return jnp.where(zero, 0.0, jnp.where(small, _SQRT_2PI / (y_ * y_) * near, large))


def _tukey_lambda(x: Any, lmbda: Any) -> Any:
    """The density: 1/(p^(λ-1) + q^(λ-1)), as x = (p^λ - q^λ)/λ with q = 1 - p."""
    p, q = special.tklmbda(x, lmbda), special.tklmbda(-x, lmbda)
    outside = (p == 0) | (q == 0)
    p, q = jnp.where(outside, 0.5, p), jnp.where(outside, 0.5, q)
    return jnp.where(outside, 0.0, 1 / (p ** (lmbda - 1) + q ** (lmbda - 1)))


def _tukey_lambda_by_lambda(x: Any, lmbda: Any) -> Any:
    """-x_λ/x_p, where (p^λ - 1)/λ by λ is log²(p) exprel′(λ log p)."""
    p, q = special.tklmbda(x, lmbda), special.tklmbda(-x, lmbda)
    outside = (p == 0) | (q == 0)
    p, q = (jnp.log(jnp.where(outside, 0.5, r)) for r in (p, q))
    by_lambda = p * p * exprel_derivative(lmbda * p) - q * q * exprel_derivative(lmbda * q)
    return jnp.where(outside, 0.0, -by_lambda * _tukey_lambda(x, lmbda))


derivatives("kolmogorov", source="Kolmogorov's series and DLMF 20.7.32", y=_kolmogorov)
derivatives(
    "kolmogi",
    source="inverse of Kolmogorov's series",
    p=lambda p: 1 / _kolmogorov(special.kolmogi(p)),
)

# Sums of up to n terms; SciPy has them as private functions.
_SIZE = NotDifferentiable("a sample's size")
derivatives(
    "smirnov",
    source="Birnbaum and Tingey (1951), in SciPy's _smirnovp",
    n=_SIZE,
    d=lambda n, d: special._smirnovp(n, d),
)
derivatives(
    "smirnovi",
    source="inverse of Birnbaum and Tingey (1951)",
    n=_SIZE,
    p=lambda n, p: 1 / special._smirnovp(n, special.smirnovi(n, p)),
)
derivatives("_smirnovp", n=_SIZE, d=NoClosedForm("the density of Smirnov's distribution"))

# The mean and the standard deviation of a normal distribution, with (x - mean)/std = Φ⁻¹(p).
derivatives(
    "nrdtrimn",
    source="inverse of the normal distribution",
    p=lambda p, std, x: -std * _SQRT_2PI * jnp.exp(special.ndtri(p) ** 2 / 2),
    std=lambda p, std, x: -special.ndtri(p),
    x=lambda p, std, x: jnp.ones_like(x),
)
derivatives(
    "nrdtrisd",
    source="inverse of the normal distribution",
    mn=lambda mn, p, x: -1 / special.ndtri(p),
    p=lambda mn, p, x: (
        (mn - x) * _SQRT_2PI * jnp.exp(special.ndtri(p) ** 2 / 2) / special.ndtri(p) ** 2
    ),
    x=lambda mn, p, x: 1 / special.ndtri(p),
)
derivatives(
    "tklmbda",
    source="inverse of (p^λ - (1 - p)^λ)/λ",
    x=_tukey_lambda,
    lmbda=_tukey_lambda_by_lambda,
)
