"""Integrals of Bessel, Airy and Struve functions: mostly the fundamental theorem of calculus."""

import math
from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, derivatives
from callbax.scipy.special._numerics import horner, known, piecewise

INTEGRAND = "the integrand"

# (J₀(x) - 1) / x and (I₀(x) - 1) / x cancel for small x. By DLMF 10.2.2 and 10.25.2 they are
# ∓x/4 Σ (∓x²/4)ᵏ / ((k+1)!)²; H₀(x) / x is 2/π Σ (-x²)ᵏ / ((2k+1)!!)² by 11.2.1.
TERMS = range(9)
J_SERIES = [-((-0.25) ** k) / 4 / math.factorial(k + 1) ** 2 for k in TERMS]
I_SERIES = [0.25**k / 4 / math.factorial(k + 1) ** 2 for k in TERMS]
H_SERIES = [2 / math.pi * (-1) ** k / math.prod(range(1, 2 * k + 2, 2)) ** 2 for k in TERMS]


def _small(near: Any, far: Any, x: Any) -> Any:
    return piecewise(jnp.abs(x) < 1, near, far, [x], [0], [1])


def _j0_less_one_over_x(x: Any) -> Any:
    return _small(lambda x: x * horner(J_SERIES, x * x), lambda x: (special.j0(x) - 1) / x, x)


def _i0_less_one_over_x(x: Any) -> Any:
    return _small(lambda x: x * horner(I_SERIES, x * x), lambda x: (special.i0(x) - 1) / x, x)


def _struve0_over_x(x: Any) -> Any:
    return _small(lambda x: horner(H_SERIES, x * x), lambda x: special.struve(0.0, x) / x, x)


derivatives("itj0y0", source=INTEGRAND, x=lambda x: (special.j0(x), known(special.y0(x))))
derivatives("iti0k0", source=INTEGRAND, x=lambda x: (special.i0(x), known(special.k0(x))))
derivatives(
    "it2j0y0", source=INTEGRAND, x=lambda x: (-_j0_less_one_over_x(x), known(-special.y0(x) / x))
)
derivatives(
    "it2i0k0", source=INTEGRAND, x=lambda x: (_i0_less_one_over_x(x), known(-special.k0(x) / x))
)
derivatives("itstruve0", source=INTEGRAND, x=lambda x: special.struve(0.0, x))
derivatives("it2struve0", source=INTEGRAND, x=lambda x: -_struve0_over_x(x))
derivatives("itmodstruve0", source=INTEGRAND, x=lambda x: special.modstruve(0.0, x))


def _itairy_derivative(x: Any) -> Any:
    ai, _, bi, _ = special.airy(x)
    ai_reflected, _, bi_reflected, _ = special.airy(-x)
    return ai, bi, ai_reflected, bi_reflected


derivatives("itairy", source=INTEGRAND, x=_itairy_derivative)

# ∫₀¹ xˡ J_ν(2ax) dx, differentiated under the integral with DLMF 10.6.1.
derivatives(
    "besselpoly",
    source="DLMF 10.6.1",
    a=lambda a, lmb, nu: (
        special.besselpoly(a, lmb + 1, nu - 1) - special.besselpoly(a, lmb + 1, nu + 1)
    ),
    lmb=NoClosedForm("an integral with the logarithm in it"),
    nu=NoClosedForm("the order of a Bessel function"),
)
