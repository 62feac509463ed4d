"""Exponential, logarithmic, sine and cosine integrals."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NotDifferentiable, derivatives


def _expn(n: Any, x: Any) -> Any:
    """-E_{n-1}(x); SciPy has no E_{-1}, which is exp(-x) (1 + x)/x²."""
    lowest = n == 0
    x_ = jnp.where(lowest, x, 1.0)
    return -jnp.where(
        lowest,
        jnp.exp(-x_) * (1 + x_) / (x_ * x_),
        special.expn(jnp.where(lowest, 1, n - 1), jnp.where(lowest, 1.0, x)),
    )


def _sinc(z: Any) -> Any:
    """sin(z)/z, near zero as ₀F₁(; 3/2; -z²/4), whose derivatives are right there too."""
    small = abs(z) < 1
    near, far = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)
    return jnp.where(small, special.hyp0f1(1.5, -near * near / 4), jnp.sin(far) / far)


def _sinhc(z: Any) -> Any:
    """sinh(z)/z likewise."""
    small = abs(z) < 1
    near, far = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)
    return jnp.where(small, special.hyp0f1(1.5, near * near / 4), jnp.sinh(far) / far)


def _spence(z: Any) -> Any:
    """log(z)/(1 - z), which is -1 at 1."""
    one = z == 1
    z = jnp.where(one, 2.0, z)
    return jnp.where(one, -1.0, special.log1p(z - 1) / (1 - z))


derivatives("exp1", source="DLMF 6.2.1", z=lambda z: -jnp.exp(-z) / z)
derivatives("expi", source="DLMF 6.2.5", x=lambda x: jnp.exp(x) / x)
derivatives("expn", source="DLMF 8.19.13", n=NotDifferentiable("an integer order"), x=_expn)
derivatives(
    "shichi", source="DLMF 6.2.15, 6.2.16, 10.39.9", x=lambda x: (_sinhc(x), jnp.cosh(x) / x)
)
derivatives("sici", source="DLMF 6.2.9, 6.2.11, 10.16.9", x=lambda x: (_sinc(x), jnp.cos(x) / x))
derivatives("spence", source="DLMF 25.12.2", z=_spence)
