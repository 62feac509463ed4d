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
from callbax.scipy.special._rules.gamma import digamma_difference, is_pole, rgamma_derivative

_SOURCE = "DLMF 8.17.1, 8.17.2"
_INVERSE = f"inverse of {_SOURCE}"
_PI = 3.141592653589793
_PARAMETER = NoClosedForm("a parameter of the incomplete beta function: ₃F₂ functions")
_SOLVED = NoClosedForm(
    "solves for a parameter of the incomplete beta function, whose derivative is a ₃F₂ function"
)
_STEPS = NotDifferentiable("a number of events: its fraction is cut off")


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

derivatives("betainc", source=_SOURCE, a=_PARAMETER, b=_PARAMETER, x=density)
derivatives(
    "betaincc",
    source=_SOURCE,
    a=_PARAMETER,
    b=_PARAMETER,
    x=lambda a, b, x: -density(a, b, x),
)
derivatives(
    "betaincinv",
    source=_INVERSE,
    a=_PARAMETER,
    b=_PARAMETER,
    y=lambda a, b, y: 1 / density(a, b, special.betaincinv(a, b, y)),
)
derivatives(
    "betainccinv",
    source=_INVERSE,
    a=_PARAMETER,
    b=_PARAMETER,
    y=lambda a, b, y: -1 / density(a, b, special.betainccinv(a, b, y)),
)
derivatives("btdtria", p=_SOLVED, b=_SOLVED, x=_SOLVED)
derivatives("btdtrib", a=_SOLVED, p=_SOLVED, x=_SOLVED)

derivatives("bdtr", source=_SOURCE, k=_STEPS, n=_STEPS, p=lambda k, n, p: -_binomial(k, n, p))
derivatives("bdtrc", source=_SOURCE, k=_STEPS, n=_STEPS, p=_binomial)
derivatives(
    "bdtri",
    source=_INVERSE,
    k=_STEPS,
    n=_STEPS,
    y=lambda k, n, y: -1 / _binomial(k, n, special.bdtri(k, n, y)),
)
derivatives("bdtrik", y=_SOLVED, n=_SOLVED, p=_SOLVED)
derivatives("bdtrin", k=_SOLVED, y=_SOLVED, p=_SOLVED)

derivatives("nbdtr", source=_SOURCE, k=_STEPS, n=_STEPS, p=_negative_binomial)
derivatives(
    "nbdtrc",
    source=_SOURCE,
    k=_STEPS,
    n=_STEPS,
    p=lambda k, n, p: -_negative_binomial(k, n, p),
)
derivatives(
    "nbdtri",
    source=_INVERSE,
    k=_STEPS,
    n=_STEPS,
    y=lambda k, n, y: 1 / _negative_binomial(k, n, special.nbdtri(k, n, y)),
)
derivatives("nbdtrik", y=_SOLVED, n=_SOLVED, p=_SOLVED)
derivatives("nbdtrin", k=_SOLVED, y=_SOLVED, p=_SOLVED)

derivatives("fdtr", source=_SOURCE, dfn=_PARAMETER, dfd=_PARAMETER, x=_f_density)
derivatives(
    "fdtrc",
    source=_SOURCE,
    dfn=_PARAMETER,
    dfd=_PARAMETER,
    x=lambda dfn, dfd, x: -_f_density(dfn, dfd, x),
)
derivatives(
    "fdtri",
    source=_INVERSE,
    dfn=_PARAMETER,
    dfd=_PARAMETER,
    p=lambda dfn, dfd, p: 1 / _f_density(dfn, dfd, special.fdtri(dfn, dfd, p)),
)
derivatives("fdtridfd", dfn=_SOLVED, p=_SOLVED, x=_SOLVED)

derivatives("stdtr", source=_SOURCE, df=_PARAMETER, t=student_density)
derivatives(
    "stdtrit",
    source=_INVERSE,
    df=_PARAMETER,
    p=lambda df, p: 1 / student_density(df, special.stdtrit(df, p)),
)
derivatives("stdtridf", p=_SOLVED, t=_SOLVED)
