"""Bessel functions, Hankel functions, and the modified ones: DLMF chapter 10."""

import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, NotDifferentiable, Rule, derivatives
from callbax.scipy.special._numerics import negative

ORDER = NoClosedForm("the order of a Bessel function")
INTEGER = NotDifferentiable("an order that must be an integer")


def _half(combined: Callable[[Any, Any], Any], name: str) -> Rule:
    """Half the sum, or the difference, of the functions of the order below and the order above."""

    def rule(v: Any, z: Any) -> Any:
        function = getattr(special, name)
        return combined(function(v - 1, z), function(v + 1, z)) / 2

    return rule


derivatives("jv", "jn", source="DLMF 10.6.1", v=ORDER, z=_half(operator.sub, "jv"))
for _name in ("yv", "hankel1", "hankel2"):
    derivatives(_name, source="DLMF 10.6.1", v=ORDER, z=_half(operator.sub, _name))
derivatives("yn", source="DLMF 10.6.1", n=INTEGER, x=_half(operator.sub, "yn"))
derivatives("iv", source="DLMF 10.29.1", v=ORDER, z=_half(operator.add, "iv"))
derivatives("kv", source="DLMF 10.29.1", v=ORDER, z=negative(_half(operator.add, "kv")))
derivatives("kn", source="DLMF 10.29.1", n=INTEGER, x=negative(_half(operator.add, "kn")))

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
    z=lambda v, z: special.kve(v, z) - _half(operator.add, "kve")(v, z),
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
    z=lambda v, z: _half(operator.sub, "hankel1e")(v, z) - 1j * special.hankel1e(v, z),
)
derivatives(
    "hankel2e",
    source="DLMF 10.6.1",
    v=ORDER,
    z=lambda v, z: _half(operator.sub, "hankel2e")(v, z) + 1j * special.hankel2e(v, z),
)


# Scaled by exp(-|Im z|) or exp(-|Re z|), which is not holomorphic. The tangent dz then enters by
# its real or imaginary part too: d|Im z| = sign(Im z) Im dz. For real z, |Im z| is 0.


def _scaled(unscaled: Rule, part: Callable[[Any], Any]) -> Rule:
    def rule(dz: Any, answer: Any, v: Any, z: Any) -> Any:
        return unscaled(v, z) * dz - answer * (jnp.sign(part(z)) * part(dz))

    return rule


for _name in ("jve", "yve"):
    _rule = _scaled(_half(operator.sub, _name), jnp.imag)
    derivatives(_name, source="DLMF 10.6.1", v=ORDER, z=_rule)
derivatives("ive", source="DLMF 10.29.1", v=ORDER, z=_scaled(_half(operator.add, "ive"), jnp.real))
derivatives("i0e", source="DLMF 10.29.3", x=lambda x: special.i1e(x) - jnp.sign(x) * special.i0e(x))
derivatives(
    "i1e",
    source="DLMF 10.29.1",
    x=lambda x: (special.i0e(x) + special.ive(2.0, x)) / 2 - jnp.sign(x) * special.i1e(x),
)
