"""The regularised incomplete gamma functions, and the distributions made of them.

P(a, x) is `gammainc`, Q = 1 - P is `gammaincc`. By DLMF 8.2.4 and 8.2.1 P has the density

    p(a, x) = x^(a - 1) exp(-x)/Γ(a)

in x. Its derivative in a, called P_a here, is a ₂F₂ function; JAX computes it. The inverses follow
by the implicit function theorem: if F(u, v) = p, then ∂u/∂p = 1/F_u and ∂u/∂v = -F_v/F_u.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NotDifferentiable, derivatives
from callbax.scipy.special._series import divide

_SOURCE = "DLMF 8.2.1, 8.2.4; P_a: jax.lax.igamma_grad_a"
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
        raise NotImplementedError(
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


def _gdtria_by_b(p: Any, b: Any, x: Any) -> Any:
    y = special.gammaincinv(b, p)
    return -by_a(b, y) / (density(b, y) * x)


def _gdtrix_by_b(a: Any, b: Any, p: Any) -> Any:
    y = special.gammaincinv(b, p)
    return -by_a(b, y) / (density(b, y) * a)


derivatives("gammainc", source=_SOURCE, a=by_a, x=density)
derivatives(
    "gammaincc",
    source=_SOURCE,
    a=lambda a, x: -by_a(a, x),
    x=lambda a, x: -density(a, x),
)


def _inverse_by_a(a: Any, x: Any) -> Any:
    """Of x by a where P(a, x) is constant: -P_a/p."""
    return divide(-by_a(a, x), density(a, x), 0.0)


derivatives(
    "gammaincinv",
    source=f"inverse of {_SOURCE}",
    a=lambda a, y: _inverse_by_a(a, special.gammaincinv(a, y)),
    y=lambda a, y: 1 / density(a, special.gammaincinv(a, y)),
)
derivatives(
    "gammainccinv",
    source=f"inverse of {_SOURCE}",
    a=lambda a, y: _inverse_by_a(a, special.gammainccinv(a, y)),
    y=lambda a, y: -1 / density(a, special.gammainccinv(a, y)),
)

# The χ² distribution: P(v/2, x/2).
derivatives(
    "chdtr",
    source=_SOURCE,
    v=lambda v, x: by_a(v / 2, x / 2) / 2,
    x=lambda v, x: density(v / 2, x / 2) / 2,
)
derivatives(
    "chdtrc",
    source=_SOURCE,
    v=lambda v, x: -by_a(v / 2, x / 2) / 2,
    x=lambda v, x: -density(v / 2, x / 2) / 2,
)
derivatives(
    "chdtri",
    source=f"inverse of {_SOURCE}",
    v=lambda v, p: _inverse_by_a(v / 2, special.chdtri(v, p) / 2),
    p=lambda v, p: -2 / density(v / 2, special.chdtri(v, p) / 2),
)
derivatives(
    "chdtriv",
    source=f"inverse of {_SOURCE}",
    p=lambda p, x: 2 / by_a(special.chdtriv(p, x) / 2, x / 2),
    x=lambda p, x: (
        -density(special.chdtriv(p, x) / 2, x / 2) / by_a(special.chdtriv(p, x) / 2, x / 2)
    ),
)

# The gamma distribution: P(b, ax).
derivatives(
    "gdtr",
    source=_SOURCE,
    a=lambda a, b, x: x * density(b, a * x),
    b=lambda a, b, x: by_a(b, a * x),
    x=lambda a, b, x: a * density(b, a * x),
)
derivatives(
    "gdtrc",
    source=_SOURCE,
    a=lambda a, b, x: -x * density(b, a * x),
    b=lambda a, b, x: -by_a(b, a * x),
    x=lambda a, b, x: -a * density(b, a * x),
)
derivatives(
    "gdtria",
    source=f"inverse of {_SOURCE}",
    p=lambda p, b, x: 1 / (x * density(b, special.gammaincinv(b, p))),
    b=_gdtria_by_b,
    x=lambda p, b, x: -special.gdtria(p, b, x) / x,
)
derivatives(
    "gdtrib",
    source=f"inverse of {_SOURCE}",
    a=lambda a, p, x: (
        -x * density(special.gdtrib(a, p, x), a * x) / by_a(special.gdtrib(a, p, x), a * x)
    ),
    p=lambda a, p, x: 1 / by_a(special.gdtrib(a, p, x), a * x),
    x=lambda a, p, x: (
        -a * density(special.gdtrib(a, p, x), a * x) / by_a(special.gdtrib(a, p, x), a * x)
    ),
)
derivatives(
    "gdtrix",
    source=f"inverse of {_SOURCE}",
    a=lambda a, b, p: -special.gdtrix(a, b, p) / a,
    b=_gdtrix_by_b,
    p=lambda a, b, p: 1 / (a * density(b, special.gammaincinv(b, p))),
)

# The Poisson distribution: Q(⌊k⌋ + 1, m).
derivatives("pdtr", source=_SOURCE, k=_STEPS, m=lambda k, m: -density(jnp.floor(k) + 1, m))
derivatives("pdtrc", source=_SOURCE, k=_STEPS, m=lambda k, m: density(jnp.floor(k) + 1, m))
derivatives(
    "pdtri",
    source=f"inverse of {_SOURCE}",
    k=_STEPS,
    y=lambda k, y: -1 / density(jnp.floor(k) + 1, special.pdtri(k, y)),
)
derivatives(
    "pdtrik",
    source=f"inverse of {_SOURCE}",
    p=lambda p, m: -1 / by_a(special.pdtrik(p, m) + 1, m),
    m=lambda p, m: -density(special.pdtrik(p, m) + 1, m) / by_a(special.pdtrik(p, m) + 1, m),
)
