"""Bessel functions, Hankel functions, and the modified ones: DLMF chapter 10."""

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, NotDifferentiable, derivatives

ORDER = NoClosedForm("the order of a Bessel function")
INTEGER = NotDifferentiable("an order that must be an integer")

derivatives(
    "jv",
    "jn",
    source="DLMF 10.6.1",
    v=ORDER,
    z=lambda v, z: (special.jv(v - 1, z) - special.jv(v + 1, z)) / 2,
)
derivatives(
    "yv",
    source="DLMF 10.6.1",
    v=ORDER,
    z=lambda v, z: (special.yv(v - 1, z) - special.yv(v + 1, z)) / 2,
)
derivatives(
    "yn",
    source="DLMF 10.6.1",
    n=INTEGER,
    x=lambda n, x: (special.yn(n - 1, x) - special.yn(n + 1, x)) / 2,
)
derivatives(
    "hankel1",
    source="DLMF 10.6.1",
    v=ORDER,
    z=lambda v, z: (special.hankel1(v - 1, z) - special.hankel1(v + 1, z)) / 2,
)
derivatives(
    "hankel2",
    source="DLMF 10.6.1",
    v=ORDER,
    z=lambda v, z: (special.hankel2(v - 1, z) - special.hankel2(v + 1, z)) / 2,
)
derivatives(
    "iv",
    source="DLMF 10.29.1",
    v=ORDER,
    z=lambda v, z: (special.iv(v - 1, z) + special.iv(v + 1, z)) / 2,
)
derivatives(
    "kv",
    source="DLMF 10.29.1",
    v=ORDER,
    z=lambda v, z: -(special.kv(v - 1, z) + special.kv(v + 1, z)) / 2,
)
derivatives(
    "kn",
    source="DLMF 10.29.1",
    n=INTEGER,
    x=lambda n, x: -(special.kn(n - 1, x) + special.kn(n + 1, x)) / 2,
)

derivatives("j0", source="DLMF 10.6.3", x=lambda x: -special.j1(x))
derivatives("j1", source="DLMF 10.6.1", x=lambda x: (special.j0(x) - special.jv(2.0, x)) / 2)
derivatives("y0", source="DLMF 10.6.3", x=lambda x: -special.y1(x))
derivatives("y1", source="DLMF 10.6.2", x=lambda x: special.y0(x) - special.y1(x) / x)
derivatives("i0", source="DLMF 10.29.3", x=lambda x: special.i1(x))
derivatives("i1", source="DLMF 10.29.1", x=lambda x: (special.i0(x) + special.iv(2.0, x)) / 2)
derivatives("k0", source="DLMF 10.29.3", x=lambda x: -special.k1(x))
derivatives("k1", source="DLMF 10.29.2", x=lambda x: -special.k0(x) - special.k1(x) / x)

# Scaled by a holomorphic factor: exp(z), exp(-iz), exp(iz).
derivatives(
    "kve",
    source="DLMF 10.29.1",
    v=ORDER,
    z=lambda v, z: special.kve(v, z) - (special.kve(v - 1, z) + special.kve(v + 1, z)) / 2,
)
derivatives("k0e", source="DLMF 10.29.3", x=lambda x: special.k0e(x) - special.k1e(x))
derivatives(
    "k1e",
    source="DLMF 10.29.2",
    x=lambda x: special.k1e(x) - special.k0e(x) - special.k1e(x) / x,
)
derivatives(
    "hankel1e",
    source="DLMF 10.6.1",
    v=ORDER,
    z=lambda v, z: (
        (special.hankel1e(v - 1, z) - special.hankel1e(v + 1, z)) / 2 - 1j * special.hankel1e(v, z)
    ),
)
derivatives(
    "hankel2e",
    source="DLMF 10.6.1",
    v=ORDER,
    z=lambda v, z: (
        (special.hankel2e(v - 1, z) - special.hankel2e(v + 1, z)) / 2 + 1j * special.hankel2e(v, z)
    ),
)


# Scaled by exp(-|Im z|) or exp(-|Re z|), which is not holomorphic. The tangent dz then enters by
# its real or imaginary part too: d|Im z| = sign(Im z) Im dz. For real z, |Im z| is 0.


def _jve_tangent(dz: Any, answer: Any, v: Any, z: Any) -> Any:
    unscaled = (special.jve(v - 1, z) - special.jve(v + 1, z)) / 2
    return unscaled * dz - answer * (jnp.sign(jnp.imag(z)) * jnp.imag(dz))


def _yve_tangent(dz: Any, answer: Any, v: Any, z: Any) -> Any:
    unscaled = (special.yve(v - 1, z) - special.yve(v + 1, z)) / 2
    return unscaled * dz - answer * (jnp.sign(jnp.imag(z)) * jnp.imag(dz))


def _ive_tangent(dz: Any, answer: Any, v: Any, z: Any) -> Any:
    unscaled = (special.ive(v - 1, z) + special.ive(v + 1, z)) / 2
    return unscaled * dz - answer * (jnp.sign(jnp.real(z)) * jnp.real(dz))


derivatives("jve", source="DLMF 10.6.1", v=ORDER, z=_jve_tangent)
derivatives("yve", source="DLMF 10.6.1", v=ORDER, z=_yve_tangent)
derivatives("ive", source="DLMF 10.29.1", v=ORDER, z=_ive_tangent)
derivatives("i0e", source="DLMF 10.29.3", x=lambda x: special.i1e(x) - jnp.sign(x) * special.i0e(x))
derivatives(
    "i1e",
    source="DLMF 10.29.1",
    x=lambda x: (special.i0e(x) + special.ive(2.0, x)) / 2 - jnp.sign(x) * special.i1e(x),
)
