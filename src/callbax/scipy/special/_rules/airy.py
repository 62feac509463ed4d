"""Airy functions: DLMF chapter 9."""

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import derivatives
from callbax.scipy.special._numerics import known


def _airy_derivative(z: Any) -> Any:
    ai, aip, bi, bip = special.airy(z)
    return aip, z * ai, bip, z * bi


derivatives("airy", source="DLMF 9.2.1", z=_airy_derivative)


def _airye_tangent(dz: Any, answer: Any, z: Any) -> Any:
    """Ai and Ai' are scaled by exp(ζ), Bi and Bi' by exp(-|Re ζ|), where ζ = 2/3 z√z.

    So the tangents of the factors are theirs times √z dz, and times -sign(Re ζ) Re(√z dz): the
    second is not holomorphic.
    """
    ai, aip, bi, bip = answer
    root = _root(z)
    shrink = jnp.sign(jnp.real(z * root)) * jnp.real(root * dz)
    return (
        known(aip + root * ai) * dz,
        known(z * ai + root * aip) * dz,
        bip * dz - shrink * bi,
        z * bi * dz - shrink * bip,
    )


def _root(z: Any) -> Any:
    """The principal square root; for negative real numbers its real part, which is 0."""
    if jnp.iscomplexobj(z):
        return jnp.sqrt(z)
    return jnp.where(z > 0, jnp.sqrt(jnp.where(z > 0, z, 1)), 0)


derivatives("airye", source="DLMF 9.2.1", z=_airye_tangent)
