"""The gamma function, its logarithm, its reciprocal and its ratios."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, NotDifferentiable, derivatives

_PI = 3.141592653589793

# The numerators of Bernoulli's numbers B₂, B₄, …, B₂₀ over (2k)!, DLMF 24.2.
_BERNOULLI_OVER_FACTORIAL = (
    1 / 12,
    -1 / 720,
    1 / 30240,
    -1 / 1209600,
    1 / 47900160,
    -691 / 1307674368000,
    1 / 74724249600,
    -3617 / 10670622842880000,
)


def is_pole(x: Any) -> Any:
    """Whether the gamma function has a pole: at 0, -1, -2, …"""
    return (x.real <= 0) & (x == jnp.floor(x.real))


def trigamma(z: Any) -> Any:
    """ψ′(z), for real numbers as ζ(2, z), which has all the higher orders (DLMF 25.11.12)."""
    if not jnp.iscomplexobj(z):
        return special._zeta(2.0, z)
    # DLMF 5.15.6: ψ′(1 - z) + ψ′(z) = π² / sin²(πz) takes the left half-plane to the right one.
    left = z.real < 0.5
    right = _trigamma_of_right_half_plane(jnp.where(left, 1 - z, z))
    reflected = _squared_cosecant(jnp.where(left, z, 0.5)) - right
    return jnp.where(left, reflected, right)


def _trigamma_of_right_half_plane(z: Any) -> Any:
    """The Euler-Maclaurin formula for Σ 1 / (z + k)² (DLMF 2.10.1), its sum begun at k = 12."""
    total, start = sum(1 / (z + k) ** 2 for k in range(12)), z + 12
    for k, number in enumerate(_BERNOULLI_OVER_FACTORIAL, start=1):
        # The odd derivatives of 1 / x²: -(2k)! / x^(2k + 1).
        total = total + number * math.factorial(2 * k) / start ** (2 * k + 1)
    return total + 1 / start + 1 / (2 * start**2)


def _squared_cosecant(z: Any) -> Any:
    """π² / sin²(πz) = -4π²q / (1 - q)² with q = exp(±2πiz), whichever is small."""
    turns = z - jnp.round(z.real)
    exponent = jnp.where(z.imag >= 0, 2j * _PI * turns, -2j * _PI * turns)
    return -4 * _PI**2 * jnp.exp(exponent) / special.expm1(exponent) ** 2


def rgamma_derivative(z: Any) -> Any:
    """That of 1/Γ, an entire function.

    It is -ψ(z)/Γ(z), which is 0·∞ at the poles of Γ; beside them the reflection formula (DLMF
    5.5.3), 1/Γ(z) = Γ(1 - z) sin(πz)/π, gives Γ(1 - z) [cos(πz) - sin(πz) ψ(1 - z)/π].
    """
    left = z.real < 0.5
    if jnp.iscomplexobj(z):
        left = left & (abs(z.imag) < 1)
    mirrored = jnp.where(left, 1 - z, 1.0)
    angle = jnp.where(left, _PI * (z - 2 * jnp.round(z.real / 2)), 0.0)
    near_poles = special.gamma(mirrored) * (
        jnp.cos(angle) - jnp.sin(angle) * special.digamma(mirrored) / _PI
    )
    z = jnp.where(left, 1.0, z)
    return jnp.where(left, near_poles, -special.digamma(z) * special.rgamma(z))


def digamma_difference(x: Any, y: Any) -> Any:
    """ψ(x) - ψ(y); between two poles, the limit for a fixed difference x - y (DLMF 5.5.4)."""
    poles = is_pole(x) & is_pole(y)
    x, y = jnp.where(poles, 1 - x, x), jnp.where(poles, 1 - y, y)
    return special.digamma(x) - special.digamma(y)


def _poch_by_z(z: Any, m: Any) -> Any:
    """(z)_m = Γ(z + m)/Γ(z), by z."""
    zero = is_pole(z) & ~is_pole(z + m)
    at_zero = special.gamma(jnp.where(zero, z + m, 1.0)) * rgamma_derivative(z)
    z = jnp.where(zero, 1.0, z)
    return jnp.where(zero, at_zero, special.poch(z, m) * digamma_difference(z + m, z))


def _poch_by_m(z: Any, m: Any) -> Any:
    zero = is_pole(z)
    z = jnp.where(zero, 1.0, z)
    return jnp.where(zero, 0.0, special.poch(z, m) * special.digamma(z + m))


def _binom_by_n(n: Any, k: Any) -> Any:
    """Γ(n + 1) / (Γ(k + 1) Γ(n - k + 1)), by n. At the poles of the last, it is a zero."""
    zero = is_pole(n - k + 1)
    at_zero = _thrice(n, k, special.rgamma(k + 1), rgamma_derivative(n - k + 1), zero)
    k_ = jnp.where(zero, n, k)
    general = special.binom(n, k_) * digamma_difference(n + 1, n - k_ + 1)
    return jnp.where(zero, at_zero, general)


def _binom_by_k(n: Any, k: Any) -> Any:
    zero = is_pole(n - k + 1) | is_pole(k + 1)
    first = _thrice(n, k, rgamma_derivative(k + 1), special.rgamma(n - k + 1), zero)
    second = _thrice(n, k, special.rgamma(k + 1), rgamma_derivative(n - k + 1), zero)
    k = jnp.where(zero, n / 2, k)
    general = special.binom(n, k) * digamma_difference(n - k + 1, k + 1)
    return jnp.where(zero, first - second, general)


def _thrice(n: Any, k: Any, left: Any, right: Any, where: Any) -> Any:
    return special.gamma(jnp.where(where, n + 1, 1.0)) * left * right


derivatives("gamma", source="DLMF 5.2.2", z=lambda z: special.gamma(z) * special.digamma(z))
derivatives("gammaln", source="DLMF 5.2.2", x=lambda x: special.digamma(x))
derivatives("loggamma", source="DLMF 5.2.2", z=lambda z: special.digamma(z))
derivatives("gammasgn", x=NotDifferentiable("a function of steps"))
derivatives("rgamma", source="DLMF 5.2.2, 5.5.3", z=rgamma_derivative)
derivatives("digamma", "psi", source="DLMF 25.11.12, 5.15.6, 2.10.1", z=trigamma)
derivatives("poch", source="DLMF 5.2.5, 5.5.4", z=_poch_by_z, m=_poch_by_m)
derivatives("binom", source="DLMF 1.2.6, 5.2.2", x=_binom_by_n, y=_binom_by_k)

derivatives(
    "_zeta",
    source="DLMF 25.11.17",
    x=NoClosedForm("the exponent of the zeta function"),
    q=lambda x, q: -x * special._zeta(x + 1, q),
)
derivatives("zetac", "_riemann_zeta", x=NoClosedForm("the exponent of the zeta function"))
