"""Associated Legendre functions on the cut -1 ≤ x ≤ 1: DLMF chapter 14."""

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, NotDifferentiable, derivatives
from callbax.scipy.special._numerics import piecewise, unless


def _lpmv_x(m: Any, v: Any, x: Any) -> Any:
    return piecewise(jnp.abs(x) == 1, _at_the_ends, _inside, [m, v, x], [0, 0, 1], [0, 1, 0])


def _inside(m: Any, v: Any, x: Any) -> Any:
    """√(1-x²) dP^m/dx = ((v+m)(v-m+1) P^(m-1) - P^(m+1)) / 2. Nothing cancels near ±1.

    From 14.10.1 and 14.10.5, without P of other degrees. Where the factor is 0 SciPy may lack the
    function of a negative order that it multiplies.
    """
    factor = (v + m) * (v - m + 1)
    lowered = factor * unless(factor == 0, lambda m: special.lpmv(m - 1, v, x), m, 1)
    return (lowered - special.lpmv(m + 1, v, x)) / (2 * jnp.sqrt((1 - x) * (1 + x)))


def _at_the_ends(m: Any, v: Any, x: Any) -> Any:
    """The derivative of K (1-x²)^(a/2) F(a-v, a+v+1; a+1; (1-x)/2), a = |m| (DLMF 14.3.1, 14.3.4).

    K = (-1)^m (v-m+1)_2m / (2^m m!), or 1 / (2^a a!) for negative m. At -1 by parity (14.7.17),
    for integer v: for others P itself is infinite there.
    """
    a = jnp.abs(m)
    ladder = jnp.where(m > 0, jnp.cos(jnp.pi * a) * special.poch(v - a + 1, 2 * a), 1)
    factor = ladder / (2**a * special.gamma(a + 1))
    parity = jnp.where(v == jnp.round(v), jnp.cos(jnp.pi * (v + a + 1)), jnp.nan)
    sign = jnp.where(x < 0, parity, 1)
    x = jnp.abs(x)
    w = (1 - x) * (1 + x)
    f = special.hyp2f1(a - v, a + v + 1, a + 1, (1 - x) / 2)
    slope = -(a - v) * (a + v + 1) / (2 * (a + 1))
    f_x = slope * special.hyp2f1(a - v + 1, a + v + 2, a + 2, (1 - x) / 2)
    power_x = jnp.where(a == 0, 0, -a * x * w ** jnp.where(a == 0, 1, a / 2 - 1))
    return sign * factor * (power_x * f + w ** (a / 2) * f_x)


derivatives(
    "lpmv",
    source="DLMF 14.10.1, 14.10.5, 14.3.1",
    m=NotDifferentiable("an order that must be an integer"),
    v=NoClosedForm("the degree of a Legendre function"),
    x=_lpmv_x,
)
