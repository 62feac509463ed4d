"""Carlson's symmetric elliptic integrals: DLMF sections 19.16 to 19.20.

All are integrals over t from 0 to ∞ of powers of t + x, t + y, ...; a derivative lowers one
exponent. Where that leaves two factors of different arguments, partial fractions take them apart,
as 1/((t+x)(t+p)) = (1/(t+x) - 1/(t+p)) / (p - x). That is DLMF 19.18.13, and singular, though
removably, where the arguments meet.
"""

import math
from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import derivatives
from callbax.scipy.special._numerics import piecewise, unless

# First kind. R_F is symmetric.
derivatives(
    "elliprf",
    source="DLMF 19.18.1",
    x=lambda x, y, z: -special.elliprd(y, z, x) / 6,
    y=lambda x, y, z: -special.elliprd(z, x, y) / 6,
    z=lambda x, y, z: -special.elliprd(x, y, z) / 6,
)


# Second kind, symmetric.


def _rg_x(x: Any, y: Any, z: Any) -> Any:
    """∂R_G/∂x = (R_F - x R_D(y, z, x)/3) / 4.

    By 19.18.4 it is a multiple of R_{-1/2} with the exponent of x raised, and by 19.18.5 that one
    is a sum of R_F and x ∂R_F/∂x. The sum over x, y, z is R_F/2, as 19.18.7 wants it. At x = 0,
    where R_D is infinite, x R_D is 0.
    """
    second = unless(x == 0, lambda x: x * special.elliprd(y, z, x), x, 1)
    return (special.elliprf(x, y, z) - second / 3) / 4


derivatives(
    "elliprg",
    source="DLMF 19.18.4, 19.18.5",
    x=_rg_x,
    y=lambda x, y, z: _rg_x(y, z, x),
    z=lambda x, y, z: _rg_x(z, x, y),
)


# The degenerate case R_C(x, y) = R_F(x, y, y), an elementary function. With s = 1 - x/y,
# R_C = y^(-1/2) arcsin(√s)/√s, so that ∂R_C/∂x = (R_C - 1/√x) / (2 (y - x)). The series in s of
# 19.19 (or of the arcsine, 4.24.1) is used near s = 0.

ARCSINE = [math.comb(2 * k, k) / 4**k / (2 * k + 1) for k in range(30)]
ARCSINE_DERIVATIVE = [k * a for k, a in enumerate(ARCSINE)][1:]


def _rc_x(x: Any, y: Any) -> Any:
    def near(x: Any, y: Any) -> Any:
        series = jnp.array(ARCSINE_DERIVATIVE[::-1], jnp.result_type(x))
        return -jnp.polyval(series, 1 - x / y) / (y * jnp.sqrt(y))

    def far(x: Any, y: Any) -> Any:
        return (special.elliprc(x, y) - 1 / jnp.sqrt(x)) / (2 * (y - x))

    return piecewise(abs(y - x) < abs(y) / 4, near, far, [x, y], [1, 1], [1, 2])


def _rc_y(x: Any, y: Any) -> Any:
    """From the degree of homogeneity, -1/2. At x = 0, where ∂R_C/∂x is infinite, x times it is 0."""
    return -(special.elliprc(x, y) / 2 + unless(x == 0, lambda x: x * _rc_x(x, y), x, 1)) / y


derivatives("elliprc", source="DLMF 19.2.17, 19.18.11", x=_rc_x, y=_rc_y)


# Second kind, symmetric in x and y only.


def _rd_x(x: Any, y: Any, z: Any) -> Any:
    """∂R_D/∂x = -3/4 ∫ (t+x)^(-3/2) (t+y)^(-1/2) (t+z)^(-3/2) dt."""

    def far(x: Any, y: Any, z: Any) -> Any:
        return (special.elliprd(x, y, z) - special.elliprd(y, z, x)) / (2 * (z - x))

    return piecewise(
        abs(x - z) < abs(x + z) / 50, _rd_x_near_z, far, [x, y, z], [1, 1, 1], [1, 1, 2]
    )


def _rd_x_near_z(x: Any, y: Any, z: Any) -> Any:
    """With a = (x+z)/2 and h = (x-z)/2, (t+x)(t+z) = (t+a)² - h², expanded in h².

    The terms are ∫ (t+y)^(-1/2) (t+a)^(-n) dt with n = 3, 5, ...; t + a = a/u makes that a
    hypergeometric function by 15.6.1. Where y = 0 it is a beta function.
    """
    a, h = (x + z) / 2, (x - z) / 2

    def column(values: list[float]) -> Any:  # one row for each term
        dtype = jnp.finfo(jnp.result_type(x)).dtype
        return jnp.array(values, dtype).reshape(-1, *(1,) * jnp.ndim(a))

    b = [2.5, 4.5, 6.5, 8.5]  # n - 1/2
    complete = [math.gamma(0.5) * math.gamma(v) / math.gamma(v + 0.5) for v in b]
    general = special.hyp2f1(0.5, column(b), column(b) + 1, 1 - jnp.where(y == 0, 1, y / a))
    integrals = jnp.where(y == 0, column(complete), general / column(b))
    coefficients = column([1, 3 / 2, 15 / 8, 35 / 16])  # of (1 - h²)^(-3/2)
    powers = jnp.stack([jnp.ones_like(a), *((h / a) ** (2 * k) for k in (1, 2, 3))])
    return -0.75 * jnp.sum(coefficients * integrals * powers, axis=0) / (a * a * jnp.sqrt(a))


def _rd_z(x: Any, y: Any, z: Any) -> Any:
    """From the degree of homogeneity, -3/2. At x = 0, where ∂/∂x is infinite, x ∂/∂x is 0."""
    x_part = unless(x == 0, lambda x: x * _rd_x(x, y, z), x, 1)
    y_part = unless(y == 0, lambda y: y * _rd_x(y, x, z), y, 1)
    return -(1.5 * special.elliprd(x, y, z) + x_part + y_part) / z


derivatives(
    "elliprd",
    source="DLMF 19.18.11, 19.18.13",
    x=_rd_x,
    y=lambda x, y, z: _rd_x(y, x, z),
    z=_rd_z,
)


# Third kind, symmetric in x, y and z.


def _rj_x(x: Any, y: Any, z: Any, p: Any) -> Any:
    """∂R_J/∂x = -3/4 ∫ (t+x)^(-3/2) (t+y)^(-1/2) (t+z)^(-1/2) (t+p)^(-1) dt.

    Near x = p the first and the last factor are (t+q)^(-5/2) with q = (3x+2p)/5, but for terms of
    second order in the difference, and that integral is ∂R_D/∂q.
    """

    def near(x: Any, y: Any, z: Any, p: Any) -> Any:
        return _rd_z(y, z, (3 * x + 2 * p) / 5) / 3

    def far(x: Any, y: Any, z: Any, p: Any) -> Any:
        return (special.elliprj(x, y, z, p) - special.elliprd(y, z, x)) / (2 * (p - x))

    # Errors: about d² in the one, and epsilon / d in the other.
    d = float(jnp.finfo(jnp.result_type(x)).eps) ** (1 / 3)
    return piecewise(
        abs(x - p) < abs(x + p) * d, near, far, [x, y, z, p], [1, 1, 1, 1], [1, 1, 1, 2]
    )


def _rj_p(x: Any, y: Any, z: Any, p: Any) -> Any:
    """From the degree of homogeneity, -3/2. At x = 0, where ∂/∂x is infinite, x ∂/∂x is 0."""
    x_part = unless(x == 0, lambda x: x * _rj_x(x, y, z, p), x, 1)
    y_part = unless(y == 0, lambda y: y * _rj_x(y, z, x, p), y, 1)
    z_part = unless(z == 0, lambda z: z * _rj_x(z, x, y, p), z, 1)
    return -(1.5 * special.elliprj(x, y, z, p) + x_part + y_part + z_part) / p


derivatives(
    "elliprj",
    source="DLMF 19.18.11, 19.18.13",
    x=_rj_x,
    y=lambda x, y, z, p: _rj_x(y, z, x, p),
    z=lambda x, y, z, p: _rj_x(z, x, y, p),
    p=_rj_p,
)
