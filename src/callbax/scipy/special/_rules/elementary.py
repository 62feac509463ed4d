"""Combinations of elementary functions, and their inverses."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, NotDifferentiable, derivatives
from callbax.scipy.special._numerics import (
    divide,
    exprel_derivative,
    log_ratio,
    power_mean_derivative,
)

_PI = 3.141592653589793
_DEGREE = _PI / 180
_CALCULUS = "elementary calculus"


def _pseudo_huber_by_delta(delta: Any, r: Any) -> Any:
    """δ(s - 1)²/s with s = √(1 + r²/δ²), without the cancellation: h = √(δ² + r²) is δs."""
    h = jnp.hypot(delta, r)
    zero = h == 0
    h = jnp.where(zero, 1.0, h)
    share = r / (h + delta)
    return jnp.where(zero, 0.0, share * share * r * (r / h))


def _pseudo_huber_by_r(delta: Any, r: Any) -> Any:
    """r/s, with s as above."""
    zero = (delta == 0) & (r == 0)
    return r * (delta / jnp.where(zero, 1.0, jnp.hypot(jnp.where(zero, 1.0, delta), r)))


def _powm1_by_x(x: Any, y: Any) -> Any:
    zero = y == 0
    return jnp.where(zero, 0.0, y * jnp.where(zero, 1.0, x) ** (y - 1))


def _powm1_by_y(x: Any, y: Any) -> Any:
    zero = (x == 0) & (y > 0)
    base = jnp.where(zero, 1.0, x)
    return jnp.where(zero, 0.0, base**y * jnp.log(base))


def _inverse_boxcox_by_power(log_x: Any, power: Any) -> Any:
    """Of x by λ where (x^λ - 1)/λ is constant: the two partial derivatives' ratio."""
    return -jnp.exp((1 - power) * log_x) * power_mean_derivative(log_x, power)


def _xlogy_by_y(x: Any, y: Any) -> Any:
    return jnp.where(x == 0, 0.0, x / jnp.where(x == 0, 1.0, y))


def _agm_by(a: Any, b: Any) -> Any:
    """The arithmetic-geometric mean M by its first argument.

    M = π/(2 R_F(0, a², b²)), and ∂R_F/∂z = -R_D/6 for its last argument.
    """
    mean = special.agm(a, b)
    by_a = 2 / (3 * _PI) * mean**2 * abs(a) * special.elliprd(0.0, b * b, a * a)
    # M is zero when one of the two is: constant in the other, and as steep as 1/log in this one.
    return jnp.where(mean == 0, jnp.where(a == 0, jnp.inf, 0.0), by_a)


def _wrightomega(z: Any) -> Any:
    """ω + log ω = z, so ω′ = ω/(1 + ω)."""
    omega = special.wrightomega(z)
    infinite = jnp.isinf(omega)
    return jnp.where(infinite, 1.0, omega / (1 + jnp.where(infinite, 0.0, omega)))


def _lambertw_by_z(z: Any, k: Any, tol: Any) -> Any:
    """W exp(W) = z, so W′ = exp(-W)/(1 + W)."""
    w = special._lambertw(z, k, tol)
    return jnp.exp(-w) / (1 + w)


_PARAMETER = NoClosedForm("a sum of digamma functions over Wright's series")

derivatives("entr", source=_CALCULUS, x=lambda x: -jnp.log(x) - 1)
derivatives(
    "rel_entr",
    source=_CALCULUS,
    x=lambda x, y: log_ratio(x, y) + 1,
    y=lambda x, y: jnp.where(x == 0, 0.0, -divide(x, y, jnp.inf)),
)
derivatives(
    "kl_div",
    source=_CALCULUS,
    x=log_ratio,
    y=lambda x, y: jnp.where(x == y, 0.0, divide(y - x, y, -jnp.inf)),
)
derivatives(
    "huber",
    source=_CALCULUS,
    delta=lambda delta, r: jnp.where(abs(r) <= delta, 0.0, abs(r) - delta),
    r=lambda delta, r: jnp.clip(r, -delta, delta),
)
derivatives("pseudo_huber", source=_CALCULUS, delta=_pseudo_huber_by_delta, r=_pseudo_huber_by_r)
derivatives(
    "boxcox",
    source=_CALCULUS,
    x=lambda x, lmbda: x ** (lmbda - 1),
    lmbda=lambda x, lmbda: power_mean_derivative(jnp.log(x), lmbda),
)
derivatives(
    "boxcox1p",
    source=_CALCULUS,
    x=lambda x, lmbda: jnp.exp(special.xlog1py(lmbda - 1, x)),
    lmbda=lambda x, lmbda: power_mean_derivative(jnp.log1p(x), lmbda),
)
derivatives(
    "inv_boxcox",
    source=_CALCULUS,
    y=lambda y, lmbda: special.inv_boxcox(y, lmbda) ** (1 - lmbda),
    lmbda=lambda y, lmbda: _inverse_boxcox_by_power(jnp.log(special.inv_boxcox(y, lmbda)), lmbda),
)
derivatives(
    "inv_boxcox1p",
    source=_CALCULUS,
    y=lambda y, lmbda: jnp.exp(special.xlog1py(1 - lmbda, special.inv_boxcox1p(y, lmbda))),
    lmbda=lambda y, lmbda: _inverse_boxcox_by_power(
        jnp.log1p(special.inv_boxcox1p(y, lmbda)), lmbda
    ),
)
derivatives("exprel", source=_CALCULUS, x=exprel_derivative)
derivatives("expit", source=_CALCULUS, x=lambda x: special.expit(x) * special.expit(-x))
derivatives("log_expit", source=_CALCULUS, x=lambda x: special.expit(-x))
derivatives("logit", source=_CALCULUS, x=lambda x: 1 / (x * (1 - x)))
derivatives("log1p", source="DLMF 4.7.1", x=lambda x: 1 / (1 + x))
derivatives("expm1", source="DLMF 4.7.7", x=lambda x: jnp.exp(x))
derivatives("cosm1", source="DLMF 4.20.2", x=lambda x: -jnp.sin(x))
derivatives("xlogy", source="DLMF 4.7.1", x=lambda x, y: jnp.log(y), y=_xlogy_by_y)
derivatives(
    "xlog1py",
    source="DLMF 4.7.1",
    x=lambda x, y: special.log1p(y),
    y=lambda x, y: _xlogy_by_y(x, 1 + y),
)
derivatives("powm1", source="DLMF 4.7.9, 4.7.10", x=_powm1_by_x, y=_powm1_by_y)
derivatives("exp2", source="DLMF 4.7.9", x=lambda x: 0.6931471805599453 * special.exp2(x))
derivatives("exp10", source="DLMF 4.7.9", x=lambda x: 2.302585092994046 * special.exp10(x))
derivatives("cbrt", source="DLMF 4.7.10", x=lambda x: 1 / (3 * special.cbrt(x) ** 2))
derivatives("sindg", source="DLMF 4.20.1", x=lambda x: _DEGREE * special.cosdg(x))
derivatives("cosdg", source="DLMF 4.20.2", x=lambda x: -_DEGREE * special.sindg(x))
derivatives("tandg", source="DLMF 4.20.3", x=lambda x: _DEGREE * (1 + special.tandg(x) ** 2))
derivatives("cotdg", source="DLMF 4.20.6", x=lambda x: -_DEGREE * (1 + special.cotdg(x) ** 2))
derivatives(
    "radian",
    source="an angle's degrees, minutes and seconds",
    d=lambda d, m, s: jnp.full_like(d, _DEGREE),
    m=lambda d, m, s: jnp.full_like(m, _DEGREE / 60),
    s=lambda d, m, s: jnp.full_like(s, _DEGREE / 3600),
)
derivatives("round", x=NotDifferentiable("a function of steps"))
derivatives(
    "agm",
    source="DLMF 19.22.8, 19.18.1",
    a=lambda a, b: _agm_by(a, b),
    b=lambda a, b: _agm_by(b, a),
)
derivatives(
    "wrightomega", source="Corless and Jeffrey, The Wright ω function (2002)", z=_wrightomega
)
derivatives(
    "wright_bessel",
    source="DLMF 10.46.1",
    a=_PARAMETER,
    b=_PARAMETER,
    x=lambda a, b, x: special.wright_bessel(a, a + b, x),
)
derivatives(
    "log_wright_bessel",
    source="DLMF 10.46.1",
    a=_PARAMETER,
    b=_PARAMETER,
    x=lambda a, b, x: jnp.exp(
        special.log_wright_bessel(a, a + b, x) - special.log_wright_bessel(a, b, x)
    ),
)
derivatives(
    "_lambertw",
    source="DLMF 4.13.1, 4.13.4",
    z=_lambertw_by_z,
    k=NotDifferentiable("the number of a branch"),
    tol=NotDifferentiable("a tolerance"),
)
