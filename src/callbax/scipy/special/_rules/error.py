"""The error functions and their kin."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from callbax.scipy import special
from callbax.scipy.special._catalogue import derivatives
from callbax.scipy.special._numerics import horner

_PI = 3.141592653589793
_SQRT_PI = _PI**0.5
_SQRT_2 = 2.0**0.5
_SQRT_2PI = (2 * _PI) ** 0.5
_TURN = 0.5**0.5 * (1 + 1j)  # exp(iπ/4)

# (2k - 1)!! for k = 1, 2, …: the coefficients of the asymptotic series, DLMF 7.12.1.
_DOUBLE_FACTORIALS = [1.0]
for _k in range(2, 14):
    _DOUBLE_FACTORIALS.append(_DOUBLE_FACTORIALS[-1] * (2 * _k - 1))

# From here on the series, cut after 13 terms, is exact to double precision.
_FAR = 10.0


def _asymptotic(u: Any) -> Any:
    """Σ (2k - 1)!! uᵏ from k = 1: what remains of 2z F(z) - 1 when its terms have cancelled."""
    return u * horner(_DOUBLE_FACTORIALS, u)


def _erfcx_derivative(z: Any) -> Any:
    """2z erfcx(z) - 2/√π, which cancels for large z: there the asymptotic series, DLMF 7.12.1.

    In the left half-plane, erfcx(z) = 2 exp(z²) - erfcx(-z).
    """
    far, left = abs(z) > _FAR, z.real < 0
    large = jnp.where(far, z, _FAR)
    near = jnp.where(far, 0.0, z)
    series = 2 / _SQRT_PI * _asymptotic(-0.5 / large / large)
    z = jnp.where(far & left, z, 0.0)
    return jnp.where(
        far,
        series + 4 * z * jnp.exp(z * z),
        2 * near * special.erfcx(near) - 2 / _SQRT_PI,
    )


def _dawsn_derivative(z: Any) -> Any:
    """1 - 2z F(z), which cancels for large z: there the series of DLMF 7.12.1.

    Off the real axis a term of i√π/2 exp(-z²) adds to the series, by 7.5.1 and 7.12.1.
    """
    far = abs(z) > _FAR
    large = jnp.where(far, z, _FAR)
    near = jnp.where(far, 0.0, z)
    series = -_asymptotic(0.5 / large / large)
    if jnp.iscomplexobj(z):
        side = jnp.sign(large.imag)
        series = series - 1j * _SQRT_PI * side * large * jnp.exp(-large * large)
    return jnp.where(far, series, 1 - 2 * near * special.dawsn(near))


def _normal_density(x: Any) -> Any:
    return jnp.exp(-x * x / 2) / _SQRT_2PI


def _log_ndtr_derivative(x: Any) -> Any:
    """φ(x)/Φ(x), on the left from Φ(x) = exp(-x²/2) erfcx(-x/√2)/2."""
    left = x.real < 0
    scaled = special.erfcx(-jnp.where(left, x, 0.0) / _SQRT_2)
    right = jnp.where(left, 0.0, x)
    return jnp.where(left, 2 / (_SQRT_2PI * scaled), _normal_density(right) / special.ndtr(right))


def _modfresnel_derivatives(x: Any, sign: int) -> Any:
    """F±(x) = ∫ exp(±it²) from x to ∞, and K±(x) = erfcx(x exp(∓iπ/4))/2.

    SciPy defines K± = exp(∓i(x² + π/4)) F±/√π, which is this by DLMF 7.2.2.
    """
    turn = _TURN if sign < 0 else _TURN.conjugate()
    square = x * x
    return -lax.complex(jnp.cos(square), sign * jnp.sin(square)), turn / 2 * _erfcx_derivative(
        turn * lax.complex(x, jnp.zeros_like(x))
    )


def _voigt(x: Any, sigma: Any, gamma: Any) -> Any:
    """The Voigt profile's derivatives by x, sigma and gamma.

    With z = (x + iγ)/(σ√2) it is Re w(z)/(σ√2π) (DLMF 7.19.1-7.19.3), and w′ of DLMF 7.10.2. For
    σ = 0 it is Cauchy's density, γ/(π(x² + γ²)).
    """
    cauchy = sigma == 0
    width = jnp.where(cauchy, 1.0, sigma)
    z = lax.complex(x / width, gamma / width) / _SQRT_2
    slope = -1j * _erfcx_derivative(-1j * z)
    scale = 1 / (width * width * 2 * _SQRT_PI)
    by_sigma = -special.voigt_profile(x, width, gamma) / width - (slope * z).real * _SQRT_2 * scale
    distance = jnp.where(cauchy, x * x + gamma * gamma, 1.0)
    return (
        jnp.where(cauchy, -2 * x * gamma / (_PI * distance**2), slope.real * scale),
        jnp.where(cauchy, 0.0, by_sigma),
        jnp.where(cauchy, (x * x - gamma * gamma) / (_PI * distance**2), -slope.imag * scale),
    )


def _owens_t_by_a(h: Any, a: Any) -> Any:
    infinite = jnp.isinf(a)
    square = 1 + jnp.where(infinite, 0.0, a) ** 2
    return jnp.where(infinite, 0.0, jnp.exp(-h * h * square / 2) / (2 * _PI * square))


derivatives("erf", source="DLMF 7.2.1", z=lambda z: 2 / _SQRT_PI * jnp.exp(-z * z))
derivatives("erfc", source="DLMF 7.2.2", x=lambda x: -2 / _SQRT_PI * jnp.exp(-x * x))
derivatives("erfcx", source="DLMF 7.2.2, 7.12.1", x=_erfcx_derivative)
derivatives("erfi", source="DLMF 7.2.1", z=lambda z: 2 / _SQRT_PI * jnp.exp(z * z))
derivatives("dawsn", source="DLMF 7.2.5, 7.12.1", x=_dawsn_derivative)
derivatives("wofz", source="DLMF 7.10.2, 7.12.1", z=lambda z: -1j * _erfcx_derivative(-1j * z))
derivatives(
    "erfinv",
    source="inverse of DLMF 7.2.1",
    y=lambda y: _SQRT_PI / 2 * jnp.exp(special.erfinv(y) ** 2),
)
derivatives(
    "erfcinv",
    source="inverse of DLMF 7.2.2",
    y=lambda y: -_SQRT_PI / 2 * jnp.exp(special.erfcinv(y) ** 2),
)
derivatives(
    "fresnel",
    source="DLMF 7.2.7, 7.2.8",
    z=lambda z: (jnp.sin(_PI / 2 * z * z), jnp.cos(_PI / 2 * z * z)),
)
derivatives("modfresnelp", source="DLMF 7.2.2, 7.12.1", x=lambda x: _modfresnel_derivatives(x, 1))
derivatives("modfresnelm", source="DLMF 7.2.2, 7.12.1", x=lambda x: _modfresnel_derivatives(x, -1))
derivatives("ndtr", source="the normal density", x=_normal_density)
derivatives("log_ndtr", source="DLMF 7.2.2", x=_log_ndtr_derivative)
derivatives(
    "ndtri",
    source="inverse of the normal distribution",
    y=lambda y: _SQRT_2PI * jnp.exp(special.ndtri(y) ** 2 / 2),
)
# The derivative of exp(y) = Φ(x), which is Φ(x)/φ(x).
derivatives(
    "ndtri_exp",
    source="inverse of DLMF 7.2.2",
    y=lambda y: (_PI / 2) ** 0.5 * special.erfcx(-special.ndtri_exp(y) / _SQRT_2),
)
derivatives(
    "voigt_profile",
    source="DLMF 7.19, 7.10.2",
    x=lambda x, sigma, gamma: _voigt(x, sigma, gamma)[0],
    sigma=lambda x, sigma, gamma: _voigt(x, sigma, gamma)[1],
    gamma=lambda x, sigma, gamma: _voigt(x, sigma, gamma)[2],
)
derivatives(
    "owens_t",
    source="Owen, Tables for computing bivariate normal probabilities (1956)",
    h=lambda h, a: -jnp.exp(-h * h / 2) * special.erf(a * h / _SQRT_2) / (2 * _SQRT_2PI),
    a=_owens_t_by_a,
)
