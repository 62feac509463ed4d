"""Functions that SciPy gives with their derivative: solutions of a differential equation.

The first result's derivative is the second one, and the second's is w'' by the equation: so all
orders are there.
"""

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import (
    NoClosedForm,
    NotDifferentiable,
    Rule,
    derivatives,
)

ORDER = NoClosedForm("the order of a parabolic cylinder function")
INTEGER = NotDifferentiable("an order that must be an integer")
MATHIEU_Q = NoClosedForm("the parameter of a Mathieu function")
SPHEROIDAL_C = NoClosedForm("the parameter of a spheroidal wave function")
CHARACTERISTIC = NotDifferentiable("must be the characteristic value that belongs to m, n and c")


# Parabolic cylinder functions. SciPy's order v is DLMF's -a - 1/2.


def _cylinder(name: str) -> Rule:
    def rule(v: Any, x: Any) -> Any:
        d, dp = getattr(special, name)(v, x)
        return dp, (x * x / 4 - v - 0.5) * d

    return rule


def _pbwa_x(a: Any, x: Any) -> Any:
    w, wp = special.pbwa(a, x)
    return wp, (a - x * x / 4) * w


derivatives("pbdv", source="DLMF 12.2.2", v=ORDER, x=_cylinder("pbdv"))
derivatives("pbvv", source="DLMF 12.2.2", v=ORDER, x=_cylinder("pbvv"))
derivatives("pbwa", source="DLMF 12.14.2", a=ORDER, x=_pbwa_x)


# Mathieu functions. The angle is in degrees, though the second result is the derivative by radians.

DEGREE = jnp.pi / 180


def _mathieu(name: str, characteristic: str, *, angular: bool) -> Rule:
    def rule(m: Any, q: Any, x: Any) -> Any:
        w, wp = getattr(special, name)(m, q, x)
        # There is no value b of order 0: the odd function is 0 itself.
        order = jnp.where(m == 0, 1, m) if characteristic == "mathieu_b" else m
        value = getattr(special, characteristic)(order, q)
        if angular:
            return DEGREE * wp, DEGREE * (2 * q * jnp.cos(2 * DEGREE * x) - value) * w
        return wp, (value - 2 * q * jnp.cosh(2 * x)) * w

    return rule


for _parity, _value in [("ce", "mathieu_a"), ("se", "mathieu_b")]:
    for _name in (f"mathieu_{_parity}m", f"mathieu_mod{_parity}m1", f"mathieu_mod{_parity}m2"):
        _is_angular = "mod" not in _name
        derivatives(
            _name,
            source="DLMF 28.2.1" if _is_angular else "DLMF 28.20.1",
            m=INTEGER,
            q=MATHIEU_Q,
            x=_mathieu(_name, _value, angular=_is_angular),
        )
derivatives("mathieu_a", m=INTEGER, q=MATHIEU_Q)
derivatives("mathieu_b", m=INTEGER, q=MATHIEU_Q)


# Spheroidal wave functions. SciPy's characteristic value is DLMF's λ + γ², with γ = c (prolate) or
# γ = ic (oblate). Angular and radial functions solve the same equation; the oblate radial ones at
# an imaginary argument, ix.


def _prolate(m: Any, value: Any, c: Any, x: Any, w: Any, wp: Any) -> Any:
    """((1-x²) w')' = (c²x² + m²/(1-x²) - value) w"""
    p = (1 - x) * (1 + x)
    return (2 * x * wp + ((c * x) ** 2 + m * m / p - value) * w) / p


def _oblate_angular(m: Any, value: Any, c: Any, x: Any, w: Any, wp: Any) -> Any:
    """((1-x²) w')' = (-c²x² + m²/(1-x²) - value) w"""
    p = (1 - x) * (1 + x)
    return (2 * x * wp + (m * m / p - (c * x) ** 2 - value) * w) / p


def _oblate_radial(m: Any, value: Any, c: Any, x: Any, w: Any, wp: Any) -> Any:
    """((1+x²) w')' = (value - c²x² - m²/(1+x²)) w"""
    p = 1 + x * x
    return ((value - (c * x) ** 2 - m * m / p) * w - 2 * x * wp) / p


def _enter(name: str, characteristic: str, second: Rule) -> None:
    """A function of SciPy, and the one that takes the characteristic value too."""

    def plain(m: Any, n: Any, c: Any, x: Any) -> Any:
        w, wp = getattr(special, name)(m, n, c, x)
        return wp, second(m, getattr(special, characteristic)(m, n, c), c, x, w, wp)

    def with_value(m: Any, n: Any, c: Any, value: Any, x: Any) -> Any:
        w, wp = getattr(special, f"{name}_cv")(m, n, c, value, x)
        return wp, second(m, value, c, x, w, wp)

    source = "DLMF 30.2.1"
    derivatives(name, source=source, m=INTEGER, n=INTEGER, c=SPHEROIDAL_C, x=plain)
    derivatives(
        f"{name}_cv",
        source=source,
        m=INTEGER,
        n=INTEGER,
        c=SPHEROIDAL_C,
        cv=CHARACTERISTIC,
        x=with_value,
    )


for _name in ("pro_ang1", "pro_rad1", "pro_rad2"):
    _enter(_name, "pro_cv", _prolate)
_enter("obl_ang1", "obl_cv", _oblate_angular)
for _name in ("obl_rad1", "obl_rad2"):
    _enter(_name, "obl_cv", _oblate_radial)
derivatives("pro_cv", m=INTEGER, n=INTEGER, c=SPHEROIDAL_C)
derivatives("obl_cv", m=INTEGER, n=INTEGER, c=SPHEROIDAL_C)
