"""Noncentral distributions.

Each is a mixture of central ones, by a Poisson (χ², F) or a χ (t) distribution. What the mixture of
densities adds up to is a hypergeometric function, and so is the derivative in the noncentrality.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, derivatives
from callbax.scipy.special._numerics import inverse

_SOURCE = "Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions 2 (1995), ch. {}"
_FREEDOM = NoClosedForm("the degrees of freedom of a noncentral distribution")
_SOLVED = NoClosedForm(
    "solves for the degrees of freedom of a noncentral distribution, whose derivative has no "
    "closed form"
)
_SQRT_2PI = 2.5066282746310002


def _chi_square_density(x: Any, df: Any, nc: Any) -> Any:
    """exp(-(x + λ)/2)/2 (x/2)^ν ₀F₁(; ν + 1; λx/4)/Γ(ν + 1) with ν = df/2 - 1.

    For large λx, by DLMF 10.39.9, exp(-(√x - √λ)²/2)/2 (x/λ)^(ν/2) exp(-√(λx)) I_ν(√(λx)).
    """
    order = df / 2 - 1
    large = x * nc > 400
    small_nc, small_x = jnp.where(large, 1.0, nc), jnp.where(large, 1.0, x)
    exponent = (
        special.xlogy(order, small_x / 2) - (small_x + small_nc) / 2 - special.gammaln(df / 2)
    )
    series = jnp.exp(exponent) * special.hyp0f1(df / 2, small_x * small_nc / 4)
    nc, x = jnp.where(large, nc, 900.0), jnp.where(large, x, 900.0)
    exponent = order / 2 * jnp.log(x / nc) - (jnp.sqrt(x) - jnp.sqrt(nc)) ** 2 / 2
    bessel = jnp.exp(exponent) * special.ive(order, jnp.sqrt(x * nc))
    return jnp.where(large, bessel, series) / 2


def _chi_square_by_nc(x: Any, df: Any, nc: Any) -> Any:
    """(F(x; df + 2) - F(x; df))/2 is minus the density for df + 2."""
    return -_chi_square_density(x, df + 2, nc)


def _f_share(dfn: Any, dfd: Any, nc: Any, f: Any) -> Any:
    """What the derivatives by f and nc share, with y = dfn f/(dfn f + dfd): exp(-λ/2) y^a (1 - y)^b
    /B(a, b), and the hypergeometric function's first parameter and its argument.
    """
    a, b = dfn / 2, dfd / 2
    y = dfn * f / (dfn * f + dfd)
    exponent = special.xlogy(a, y) + special.xlog1py(b, -y) - special.betaln(a, b) - nc / 2
    return jnp.exp(exponent), a, a + b, nc * y / 2


def _f_density(dfn: Any, dfd: Any, nc: Any, f: Any) -> Any:
    """Σ Poisson(j; λ/2) p(a + j, b, y) dy/df = share ₁F₁(a + b; a; λy/2)/(y (1 - y)) dy/df."""
    share, a, total, z = _f_share(dfn, dfd, nc, f)
    # dy/df = y (1 - y)/f
    return share * special.hyp1f1(total, a, z) / f


def _f_by_nc(dfn: Any, dfd: Any, nc: Any, f: Any) -> Any:
    """Half the differences I_y(a + j + 1, b) - I_y(a + j, b), by DLMF 8.17.20."""
    share, a, total, z = _f_share(dfn, dfd, nc, f)
    return -share * special.hyp1f1(total, a + 1, z) / (2 * a)


def _t_integral(power: Any, df: Any, nc: Any, t: Any) -> Any:
    """c ∫ u^(power - 1) exp(-(1 + x²)u²/2 + xμu) du from 0 to ∞, with x = t/√ν.

    c is that of φ(xu - μ) times the density of χ, 2^(1 - ν/2)/Γ(ν/2) exp(-μ²/2)/√2π. With
    y = xμ/√(1 + x²) the integral is (DLMF 12.5.1, 12.7.12, 12.7.13) in terms of ₁F₁(·; ·; y²/2).
    """
    x = t / jnp.sqrt(df)
    root = jnp.sqrt(1 + x * x)
    y = x * nc / root
    half = power / 2
    even = special.hyp1f1(half, 0.5, y * y / 2)
    odd = special.hyp1f1(half + 0.5, 1.5, y * y / 2)
    scale = jnp.exp(
        special.gammaln(half)
        - special.gammaln(df / 2)
        + 0.34657359027997264 * (power - df)
        - power * jnp.log(root)
        - nc * nc / 2
    )
    return scale * (even + 2.0**0.5 * y * special.poch(half, 0.5) * odd) / _SQRT_2PI


def _t_density(df: Any, nc: Any, t: Any) -> Any:
    """∫ s φ(ts - μ) χ(s) ds, with u = s√ν."""
    return _t_integral(df + 1, df, nc, t) / jnp.sqrt(df)


def _t_by_nc(df: Any, nc: Any, t: Any) -> Any:
    """-∫ φ(ts - μ) χ(s) ds."""
    return -_t_integral(df, df, nc, t)


derivatives(
    "chndtr",
    source=_SOURCE.format(29),
    x=_chi_square_density,
    df=_FREEDOM,
    nc=_chi_square_by_nc,
)
derivatives(
    "chndtrix",
    source=f"inverse of {_SOURCE.format(29)}",
    p=inverse("chndtrix", 0, _chi_square_density),
    df=_FREEDOM,
    nc=inverse("chndtrix", 0, _chi_square_density, _chi_square_by_nc),
)
derivatives(
    "chndtrinc",
    source=f"inverse of {_SOURCE.format(29)}",
    x=inverse("chndtrinc", 2, _chi_square_by_nc, _chi_square_density),
    df=_FREEDOM,
    p=inverse("chndtrinc", 2, _chi_square_by_nc),
)
derivatives("chndtridf", x=_SOLVED, p=_SOLVED, nc=_SOLVED)

_FREEDOMS = dict.fromkeys(("dfn", "dfd"), _FREEDOM)
derivatives("ncfdtr", source=_SOURCE.format(30), **_FREEDOMS, nc=_f_by_nc, f=_f_density)
derivatives(
    "ncfdtri",
    source=f"inverse of {_SOURCE.format(30)}",
    **_FREEDOMS,
    nc=inverse("ncfdtri", 3, _f_density, _f_by_nc),
    p=inverse("ncfdtri", 3, _f_density),
)
derivatives(
    "ncfdtrinc",
    source=f"inverse of {_SOURCE.format(30)}",
    **_FREEDOMS,
    p=inverse("ncfdtrinc", 2, _f_by_nc),
    f=inverse("ncfdtrinc", 2, _f_by_nc, _f_density),
)
derivatives("ncfdtridfd", dfn=_SOLVED, p=_SOLVED, nc=_SOLVED, f=_SOLVED)
derivatives("ncfdtridfn", p=_SOLVED, dfd=_SOLVED, nc=_SOLVED, f=_SOLVED)

derivatives("nctdtr", source=_SOURCE.format(31), df=_FREEDOM, nc=_t_by_nc, t=_t_density)
derivatives(
    "nctdtrit",
    source=f"inverse of {_SOURCE.format(31)}",
    df=_FREEDOM,
    nc=inverse("nctdtrit", 2, _t_density, _t_by_nc),
    p=inverse("nctdtrit", 2, _t_density),
)
derivatives(
    "nctdtrinc",
    source=f"inverse of {_SOURCE.format(31)}",
    df=_FREEDOM,
    p=inverse("nctdtrinc", 1, _t_by_nc),
    t=inverse("nctdtrinc", 1, _t_by_nc, _t_density),
)
derivatives("nctdtridf", p=_SOLVED, nc=_SOLVED, t=_SOLVED)
