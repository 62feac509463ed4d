"""The beta function, the regularised incomplete one, and the distributions made of it.

I_x(a, b) is `betainc`. By DLMF 8.17.1 and 8.17.2 it has the density

    p(a, b, x) = x^(a - 1) (1 - x)^(b - 1)/B(a, b)

in x. Its derivatives in a and b are ₃F₂ functions, for which neither SciPy nor JAX has code.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, NotDifferentiable, derivatives
from callbax.scipy.special._numerics import inverse, negative
from callbax.scipy.special._rules.gamma import digamma_difference, is_pole, rgamma_derivative

_SOURCE = "DLMF 8.17.1, 8.17.2"
_INVERSE = f"inverse of {_SOURCE}"
_PI = 3.141592653589793
_PARAMETER = NoClosedForm("a parameter of the incomplete beta function: ₃F₂ functions")
_SOLVED = NoClosedForm(
    "solves for a parameter of the incomplete beta function, whose derivative is a ₃F₂ function"
)
_STEPS = NotDifferentiable("a number of events: its fraction is cut off")
_SHAPES = dict.fromkeys(("a", "b"), _PARAMETER)
_NUMBERS = dict.fromkeys(("k", "n"), _STEPS)
_FREEDOMS = dict.fromkeys(("dfn", "dfd"), _PARAMETER)


def _beta_by(a: Any, b: Any) -> Any:
    """Γ(a)Γ(b)/Γ(a + b), by a. At the poles of the last gamma function, it is a zero."""
    zero = is_pole(a + b) & ~is_pole(a) & ~is_pole(b)
    product = special.gamma(jnp.where(zero, a, 1.0)) * special.gamma(jnp.where(zero, b, 1.0))
    a_ = jnp.where(zero, 1.0, a)
    b_ = jnp.where(zero, 1.0, b)
    general = special.beta(a_, b_) * digamma_difference(a_, a_ + b_)
    return jnp.where(zero, product * rgamma_derivative(a + b), general)


def density(a: Any, b: Any, x: Any) -> Any:
    """p(a, b, x), zero outside of [0, 1]."""
    outside = (x < 0) | (x > 1)
    x = jnp.where(outside, 0.5, x)
    exponent = special.xlogy(a - 1, x) + special.xlog1py(b - 1, -x) - special.betaln(a, b)
    return jnp.where(outside, 0.0, jnp.exp(exponent))


def _binomial(k: Any, n: Any, p: Any) -> Any:
    """Of P(at least k + 1 of n), I_p(k + 1, n - k), by p. All n are never exceeded."""
    k = jnp.floor(k)
    certain = k >= n
    general = density(k + 1, jnp.where(certain, 1.0, n - k), p)
    return jnp.where(certain, 0.0, general)


def _negative_binomial(k: Any, n: Any, p: Any) -> Any:
    """Of P(at most k failures before n successes), I_p(n, k + 1), by p."""
    return density(jnp.floor(n), jnp.floor(k) + 1, p)


def _f_density(dfn: Any, dfd: Any, x: Any) -> Any:
    """That of the F distribution, I_y(dfn/2, dfd/2) with y = dfn x/(dfd + dfn x)."""
    total = dfd + dfn * x
    infinite = jnp.isinf(x)
    y = dfn * jnp.where(infinite, 1.0, x) / jnp.where(infinite, 1.0, total)
    slope = density(dfn / 2, dfd / 2, y) * dfn * dfd / total**2
    return jnp.where(infinite, 0.0, slope)


def student_density(df: Any, t: Any) -> Any:
    """(1 + t²/ν)^(-(ν + 1)/2)/(√ν B(1/2, ν/2)), for infinite ν the normal one."""
    normal = jnp.isinf(df)
    df = jnp.where(normal, 1.0, df)
    exponent = -(df + 1) / 2 * special.log1p(t * t / df) - special.betaln(0.5, df / 2)
    return jnp.where(
        normal, jnp.exp(-t * t / 2) / (2 * _PI) ** 0.5, jnp.exp(exponent) / jnp.sqrt(df)
    )


derivatives("beta", source="DLMF 5.12.1, 5.2.2", a=_beta_by, b=lambda a, b: _beta_by(b, a))
derivatives(
    "betaln",
    source="DLMF 5.12.1, 5.2.2",
    a=lambda a, b: digamma_difference(a, a + b),
    b=lambda a, b: digamma_difference(b, a + b),
)

derivatives("betainc", source=_SOURCE, **_SHAPES, x=density)
derivatives("betaincc", source=_SOURCE, **_SHAPES, x=negative(density))
derivatives("betaincinv", source=_INVERSE, **_SHAPES, y=inverse("betaincinv", 2, density))
derivatives(
    "betainccinv", source=_INVERSE, **_SHAPES, y=inverse("betainccinv", 2, negative(density))
)
derivatives("btdtria", p=_SOLVED, b=_SOLVED, x=_SOLVED)
derivatives("btdtrib", a=_SOLVED, p=_SOLVED, x=_SOLVED)

derivatives("bdtr", source=_SOURCE, **_NUMBERS, p=negative(_binomial))
derivatives("bdtrc", source=_SOURCE, **_NUMBERS, p=_binomial)
derivatives("bdtri", source=_INVERSE, **_NUMBERS, y=inverse("bdtri", 2, negative(_binomial)))
derivatives("bdtrik", y=_SOLVED, n=_SOLVED, p=_SOLVED)
derivatives("bdtrin", k=_SOLVED, y=_SOLVED, p=_SOLVED)

derivatives("nbdtr", source=_SOURCE, **_NUMBERS, p=_negative_binomial)
derivatives("nbdtrc", source=_SOURCE, **_NUMBERS, p=negative(_negative_binomial))
derivatives("nbdtri", source=_INVERSE, **_NUMBERS, y=inverse("nbdtri", 2, _negative_binomial))
derivatives("nbdtrik", y=_SOLVED, n=_SOLVED, p=_SOLVED)
derivatives("nbdtrin", k=_SOLVED, y=_SOLVED, p=_SOLVED)

derivatives("fdtr", source=_SOURCE, **_FREEDOMS, x=_f_density)
derivatives("fdtrc", source=_SOURCE, **_FREEDOMS, x=negative(_f_density))
derivatives("fdtri", source=_INVERSE, **_FREEDOMS, p=inverse("fdtri", 2, _f_density))
derivatives("fdtridfd", dfn=_SOLVED, p=_SOLVED, x=_SOLVED)

derivatives("stdtr", source=_SOURCE, df=_PARAMETER, t=student_density)
derivatives("stdtrit", source=_INVERSE, df=_PARAMETER, p=inverse("stdtrit", 1, student_density))
derivatives("stdtridf", p=_SOLVED, t=_SOLVED)
