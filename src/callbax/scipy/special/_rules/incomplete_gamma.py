"""The regularised incomplete gamma functions, and the distributions made of them.

P(a, x) is `gammainc`, Q = 1 - P is `gammaincc`. By DLMF 8.2.4 and 8.2.1 P has the density

    p(a, x) = x^(a - 1) exp(-x)/Γ(a)

in x. Its derivative in a, called P_a here, is a ₂F₂ function; JAX computes it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from callbax._runtime.errors import MissingDerivativeError
from callbax.scipy import special
from callbax.scipy.special._catalogue import NotDifferentiable, derivatives
from callbax.scipy.special._numerics import divide, inverse, negative

_SOURCE = "DLMF 8.2.1, 8.2.4; P_a: jax.lax.igamma_grad_a"
_INVERSE = f"inverse of {_SOURCE}"
_STEPS = NotDifferentiable("a number of events: its fraction is cut off")


def density(a: Any, x: Any) -> Any:
    """p(a, x)."""
    infinite = jnp.isinf(x)
    x = jnp.where(infinite, 1.0, x)
    exponent = special.xlogy(a - 1, x) - x - special.gammaln(a)
    return jnp.where(infinite, 0.0, jnp.exp(exponent))


@jax.custom_jvp
def by_a(a: Any, x: Any) -> Any:
    """P_a(a, x)."""
    edge = (x == 0) | jnp.isinf(x) | jnp.isinf(a)
    return jnp.where(
        edge, 0.0, jax.lax.igamma_grad_a(jnp.where(edge, 1.0, a), jnp.where(edge, 1.0, x))
    )


def _by_a_jvp(primals: Any, tangents: Any) -> Any:
    """By x it is p (log x - ψ(a)), as p differentiated by a."""
    (a, x), (a_dot, x_dot) = primals, tangents
    if type(a_dot) is not jax.custom_derivatives.SymbolicZero:
        raise MissingDerivativeError(
            "the second derivative of the incomplete gamma functions in their parameter has no "
            "closed form; stop the differentiation of it with jax.lax.stop_gradient"
        )
    answer = by_a(a, x)
    if type(x_dot) is jax.custom_derivatives.SymbolicZero:
        return answer, jnp.zeros_like(answer)
    edge = (x == 0) | jnp.isinf(x)
    x = jnp.where(edge, 1.0, x)
    slope = density(a, x) * (jnp.log(x) - special.digamma(a))
    return answer, jnp.where(edge, 0.0, slope) * x_dot


by_a.defjvp(_by_a_jvp, symbolic_zeros=True)


def _quotient_by_b(b: Any, p: Any, divisor: Any) -> Any:
    """Of y / divisor by b, where P(b, y) = p."""
    y = special.gammaincinv(b, p)
    return -by_a(b, y) / (density(b, y) * divisor)


derivatives("gammainc", source=_SOURCE, a=by_a, x=density)
derivatives("gammaincc", source=_SOURCE, a=negative(by_a), x=negative(density))


def _inverse_by_a(a: Any, x: Any) -> Any:
    """Of x by a where P(a, x) is constant: -P_a/p."""
    return divide(-by_a(a, x), density(a, x), 0.0)


derivatives(
    "gammaincinv",
    source=_INVERSE,
    a=lambda a, y: _inverse_by_a(a, special.gammaincinv(a, y)),
    y=inverse("gammaincinv", 1, density),
)
derivatives(
    "gammainccinv",
    source=_INVERSE,
    a=lambda a, y: _inverse_by_a(a, special.gammainccinv(a, y)),
    y=inverse("gammainccinv", 1, negative(density)),
)


# The χ² distribution: P(v/2, x/2).


def _chi_square_by_v(v: Any, x: Any) -> Any:
    return by_a(v / 2, x / 2) / 2


def _chi_square_by_x(v: Any, x: Any) -> Any:
    return density(v / 2, x / 2) / 2


derivatives("chdtr", source=_SOURCE, v=_chi_square_by_v, x=_chi_square_by_x)
derivatives("chdtrc", source=_SOURCE, v=negative(_chi_square_by_v), x=negative(_chi_square_by_x))
derivatives(
    "chdtri",
    source=_INVERSE,
    v=lambda v, p: _inverse_by_a(v / 2, special.chdtri(v, p) / 2),
    p=inverse("chdtri", 1, negative(_chi_square_by_x)),
)
derivatives(
    "chdtriv",
    source=_INVERSE,
    p=inverse("chdtriv", 0, _chi_square_by_v),
    x=inverse("chdtriv", 0, _chi_square_by_v, _chi_square_by_x),
)


# The gamma distribution: P(b, ax).


def _gamma_by_a(a: Any, b: Any, x: Any) -> Any:
    return x * density(b, a * x)


def _gamma_by_b(a: Any, b: Any, x: Any) -> Any:
    return by_a(b, a * x)


def _gamma_by_x(a: Any, b: Any, x: Any) -> Any:
    return a * density(b, a * x)


derivatives("gdtr", source=_SOURCE, a=_gamma_by_a, b=_gamma_by_b, x=_gamma_by_x)
derivatives(
    "gdtrc",
    source=_SOURCE,
    a=negative(_gamma_by_a),
    b=negative(_gamma_by_b),
    x=negative(_gamma_by_x),
)
derivatives(
    "gdtria",
    source=_INVERSE,
    p=lambda p, b, x: 1 / (x * density(b, special.gammaincinv(b, p))),
    b=lambda p, b, x: _quotient_by_b(b, p, x),
    x=lambda p, b, x: -special.gdtria(p, b, x) / x,
)
derivatives(
    "gdtrib",
    source=_INVERSE,
    a=inverse("gdtrib", 1, _gamma_by_b, _gamma_by_a),
    p=inverse("gdtrib", 1, _gamma_by_b),
    x=inverse("gdtrib", 1, _gamma_by_b, _gamma_by_x),
)
derivatives(
    "gdtrix",
    source=_INVERSE,
    a=lambda a, b, p: -special.gdtrix(a, b, p) / a,
    b=lambda a, b, p: _quotient_by_b(b, p, a),
    p=lambda a, b, p: 1 / (a * density(b, special.gammaincinv(b, p))),
)


# The Poisson distribution: Q(⌊k⌋ + 1, m).


def _poisson_by_m(k: Any, m: Any) -> Any:
    return -density(jnp.floor(k) + 1, m)


derivatives("pdtr", source=_SOURCE, k=_STEPS, m=_poisson_by_m)
derivatives("pdtrc", source=_SOURCE, k=_STEPS, m=negative(_poisson_by_m))
derivatives("pdtri", source=_INVERSE, k=_STEPS, y=inverse("pdtri", 1, _poisson_by_m))
derivatives(
    "pdtrik",
    source=_INVERSE,
    p=inverse("pdtrik", 0, lambda k, m: -by_a(k + 1, m)),
    m=inverse("pdtrik", 0, lambda k, m: by_a(k + 1, m), lambda k, m: density(k + 1, m)),
)
