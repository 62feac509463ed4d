"""Orthogonal polynomials: DLMF section 18.9(iii).

A derivative lowers the degree and raises the parameters, and so stays a function of SciPy, without
the singularities at ±1 that a formula of one family has. Integer degrees have loops of their own.
"""

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, Rule, derivatives
from callbax.scipy.special._numerics import unless

DEGREE = NoClosedForm("the degree of a polynomial, as a real number")
PARAMETER = NoClosedForm("a parameter of a polynomial: only a sum over all lower degrees is known")


def _unless_constant(rule: Rule) -> Rule:
    """The rule, but 0 for degree 0, as degree -1 is not the zero function in each family."""
    return lambda n, *others: unless(n == 0, lambda n: rule(n, *others), n, 1)


# General families.
derivatives(
    "eval_jacobi",
    source="DLMF 18.9.15",
    n=DEGREE,
    alpha=PARAMETER,
    beta=PARAMETER,
    x=_unless_constant(
        lambda n, alpha, beta, x: (
            (n + alpha + beta + 1) / 2 * special.eval_jacobi(n - 1, alpha + 1, beta + 1, x)
        )
    ),
)
# G_n(p, q, x) is P_n of (p-q, q-1) and 2x-1 over binom(2n+p-1, n): the same rule.
derivatives(
    "eval_sh_jacobi",
    source="DLMF 18.1.2, 18.9.15",
    n=DEGREE,
    p=PARAMETER,
    q=PARAMETER,
    x=_unless_constant(lambda n, p, q, x: n * special.eval_sh_jacobi(n - 1, p + 2, q + 1, x)),
)
derivatives(
    "eval_gegenbauer",
    source="DLMF 18.9.19",
    n=DEGREE,
    alpha=PARAMETER,
    x=_unless_constant(
        lambda n, alpha, x: 2 * alpha * special.eval_gegenbauer(n - 1, alpha + 1, x)
    ),
)
derivatives(
    "eval_genlaguerre",
    source="DLMF 18.9.23",
    n=DEGREE,
    alpha=PARAMETER,
    x=_unless_constant(lambda n, alpha, x: -special.eval_genlaguerre(n - 1, alpha + 1, x)),
)
derivatives(
    "eval_laguerre",
    source="DLMF 18.9.23",
    n=DEGREE,
    x=_unless_constant(lambda n, x: -special.eval_genlaguerre(n - 1, 1.0, x)),
)
derivatives(
    "eval_hermite",
    source="DLMF 18.9.25",
    n=DEGREE,
    x=_unless_constant(lambda n, x: 2 * n * special.eval_hermite(n - 1, x)),
)
derivatives(
    "eval_hermitenorm",
    source="DLMF 18.9.27",
    n=DEGREE,
    x=_unless_constant(lambda n, x: n * special.eval_hermitenorm(n - 1, x)),
)


# Legendre and Chebyshev polynomials are those of Gegenbauer with the parameter 1/2, 1 (U) and, but
# for a factor, 0 (T). Below degree 0 they are reflected: P_{-1-n} = P_n, U_{-2-n} = -U_n, T_{-n} = T_n.


def _legendre(n: Any, x: Any) -> Any:
    """P_n' = C_{n-1}^(3/2)"""
    n = jnp.where(n < 0, -1 - n, n)
    return _unless_constant(lambda n, x: special.eval_gegenbauer(n - 1, 1.5, x))(n, x)


def _chebyu(n: Any, x: Any) -> Any:
    """U_n' = 2 C_{n-1}^(2)"""
    sign = jnp.sign(n + 1)
    n = jnp.where(n < -1, -2 - n, n)
    constant = (n == 0) | (n == -1)
    return sign * unless(constant, lambda n: 2 * special.eval_gegenbauer(n - 1, 2.0, x), n, 1)


derivatives("eval_legendre", source="DLMF 18.7.9, 18.9.19", n=DEGREE, x=_legendre)
derivatives(
    "eval_sh_legendre",
    source="DLMF 18.7.10, 18.9.19",
    n=DEGREE,
    x=lambda n, x: 2 * _legendre(n, 2 * x - 1),
)
derivatives("eval_chebyu", source="DLMF 18.7.4, 18.9.19", n=DEGREE, x=_chebyu)
derivatives(
    "eval_sh_chebyu",
    source="DLMF 18.7.8, 18.9.19",
    n=DEGREE,
    x=lambda n, x: 2 * _chebyu(n, 2 * x - 1),
)
# S_n(x) = U_n(x/2), C_n(x) = 2 T_n(x/2).
derivatives(
    "eval_chebys",
    source="DLMF 18.1.3, 18.9.19",
    n=DEGREE,
    x=lambda n, x: _chebyu(n, x / 2) / 2,
)
derivatives(
    "eval_chebyt",
    source="DLMF 18.9.21",
    n=DEGREE,
    x=lambda n, x: n * special.eval_chebyu(n - 1, x),
)
derivatives(
    "eval_sh_chebyt",
    source="DLMF 18.7.7, 18.9.21",
    n=DEGREE,
    x=lambda n, x: 2 * n * special.eval_sh_chebyu(n - 1, x),
)
derivatives(
    "eval_chebyc",
    source="DLMF 18.1.3, 18.9.21",
    n=DEGREE,
    x=lambda n, x: n * special.eval_chebys(n - 1, x),
)
