"""Legendre's elliptic integrals and Jacobi's elliptic functions, of the parameter m = k².

Derivatives by m are Carlson's R_D: unlike the forms with E - (1-m)K and its like they have no
0/0 at m = 0, m = 1 or φ = 0, and nothing cancels near these.
"""

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import derivatives
from callbax.scipy.special._numerics import unless


def _k_m(m: Any) -> Any:
    """dK/dm; K = R_F(0, 1-m, 1) by DLMF 19.25.1, and 19.18.1."""
    return special.elliprd(0.0, 1.0, 1 - m) / 6


def _e_m(m: Any) -> Any:
    """dE/dm = (E - K) / (2m) by DLMF 19.4.2, and K - E is m/3 of this R_D by 19.25.1."""
    return -special.elliprd(0.0, 1 - m, 1.0) / 6


derivatives("ellipk", source="DLMF 19.18.1, 19.25.1", m=_k_m)
derivatives(
    "ellipkm1", source="DLMF 19.18.1, 19.25.1", p=lambda p: -special.elliprd(0.0, 1.0, p) / 6
)
derivatives("ellipe", source="DLMF 19.4.2, 19.25.1", m=_e_m)


# Incomplete integrals. φ = nπ + θ with |θ| ≤ π/2 makes F(φ|m) = 2n K + F(θ|m), likewise E
# (DLMF 19.2.10). With s = sin θ, c = cos θ and d² = 1 - m s², F(θ|m) = s R_F(c², d², 1) by 19.25.5,
# and F - E is m s³/3 of R_D(c², d², 1) by 19.25.9 and 19.25.10.


def _reduced(phi: Any) -> tuple[Any, Any]:
    half_turns = jnp.round(phi / jnp.pi)
    return half_turns, phi - half_turns * jnp.pi


def _turned(half_turns: Any, complete: Any, m: Any) -> Any:
    """2n times the complete integral, which may be infinite, but not where n = 0."""
    return 2 * half_turns * unless(half_turns == 0, complete, m, 0.5)


def _d_squared(s: Any, c: Any, m: Any) -> Any:
    """1 - m s², in the form of which neither the value nor a derivative cancels."""
    return jnp.where(m * s * s < 0.5, 1 - m * s * s, c * c + (1 - m) * s * s)


def _f_m(phi: Any, m: Any) -> Any:
    half_turns, theta = _reduced(phi)
    s, c = jnp.sin(theta), jnp.cos(theta)
    part = s**3 / 6 * special.elliprd(c * c, 1.0, _d_squared(s, c, m))
    return part + _turned(half_turns, _k_m, m)


def _e_inc_m(phi: Any, m: Any) -> Any:
    half_turns, theta = _reduced(phi)
    s, c = jnp.sin(theta), jnp.cos(theta)
    part = -(s**3) / 6 * special.elliprd(c * c, _d_squared(s, c, m), 1.0)
    return part + _turned(half_turns, _e_m, m)


derivatives(
    "ellipkinc",
    source="DLMF 19.2.4, 19.18.1, 19.25.5",
    phi=lambda phi, m: 1 / jnp.sqrt(_d_squared(jnp.sin(phi), jnp.cos(phi), m)),
    m=_f_m,
)
derivatives(
    "ellipeinc",
    source="DLMF 19.2.5, 19.4.6, 19.25.9",
    phi=lambda phi, m: jnp.sqrt(_d_squared(jnp.sin(phi), jnp.cos(phi), m)),
    m=_e_inc_m,
)


def _jacobi_u(u: Any, m: Any) -> Any:
    sn, cn, dn, _ = special.ellipj(u, m)
    return cn * dn, -sn * dn, -m * sn * cn, dn


def _jacobi_m(u: Any, m: Any) -> Any:
    """u = F(φ|m) stays, so dφ/dm = -(∂F/∂m) / (∂F/∂φ) = -dn ∂F/∂m; and dn² = 1 - m sn²."""
    sn, cn, dn, phi = special.ellipj(u, m)
    half_turns, _ = _reduced(phi)
    s = sn * jnp.cos(jnp.pi * half_turns)
    f_m = s**3 / 6 * special.elliprd(cn * cn, 1.0, dn * dn) + _turned(half_turns, _k_m, m)
    phi_m = -dn * f_m
    return cn * phi_m, -sn * phi_m, m * sn * cn * f_m - sn * sn / (2 * dn), phi_m


derivatives("ellipj", source="DLMF 22.13.1, 22.16.1, 19.25.5", u=_jacobi_u, m=_jacobi_m)
