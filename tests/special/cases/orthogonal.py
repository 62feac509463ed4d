"""Orthogonal polynomials, of integer degree (other loops of SciPy) and of real degree."""

from mpmath import binomial, chebyt, chebyu, gegenbauer, hermite, jacobi, laguerre, legendre, sqrt
from special.truth import Case, Disc, Integers

X = (-1.0, 1.0)
UNIT = (0.0, 1.0)
P = (-0.5, 3.0)
DEGREES = Integers(0, 9)
NEGATIVE = Integers(-6, 0)
REAL = (0.3, 5.0)
Z = Disc(1.5)


def shifted(function):
    return lambda n, x: function(n, 2 * x - 1)


def chebyc(n, x):
    return 2 * chebyt(n, x / 2)


def chebys(n, x):
    return chebyu(n, x / 2)


def hermitenorm(n, x):
    return hermite(n, x / sqrt(2)) / sqrt(2) ** n


def sh_jacobi(n, p, q, x):
    return jacobi(n, p - q, q - 1, 2 * x - 1) / binomial(2 * n + p - 1, n)


def laguerre0(n, x):
    return laguerre(n, 0, x)


def families(name, function, domain, z=Z):
    """Of integer degree, at the ends too; of real degree; of a complex argument."""
    low, high = domain
    ends = [(n, x) for n in range(6) for x in domain]
    inside = (0.95 * low + 0.05 * high, high)
    return [
        Case(name, "x", function, [DEGREES, domain], points=ends, count=20, second=True),
        Case(name, "x", function, [REAL, inside], second=True),
        Case(name, "x", function, [range(0, 5), z]),
    ]


CASES = [
    *families("eval_chebyt", chebyt, X),
    *families("eval_chebyu", chebyu, X),
    *families("eval_chebyc", chebyc, (-2.0, 2.0)),
    *families("eval_chebys", chebys, (-2.0, 2.0)),
    *families("eval_legendre", legendre, X),
    *families("eval_sh_chebyt", shifted(chebyt), UNIT),
    *families("eval_sh_chebyu", shifted(chebyu), UNIT),
    *families("eval_sh_legendre", shifted(legendre), UNIT),
    *families("eval_laguerre", laguerre0, (0.0, 6.0)),
    Case("eval_chebyt", "x", chebyt, [NEGATIVE, X]),
    Case("eval_chebyu", "x", chebyu, [NEGATIVE, X]),
    Case("eval_legendre", "x", legendre, [NEGATIVE, X]),
    Case("eval_hermite", "x", hermite, [DEGREES, (-3.0, 3.0)], [(0, 0.0), (1, 0.0)], second=True),
    Case("eval_hermitenorm", "x", hermitenorm, [DEGREES, (-3.0, 3.0)], [(0, 0.0)], second=True),
    Case(
        "eval_jacobi",
        "x",
        jacobi,
        [DEGREES, P, P, X],
        [(n, 0.5, 1.5, x) for n in range(5) for x in X],
        count=20,
        second=True,
    ),
    Case("eval_jacobi", "x", jacobi, [REAL, P, P, (-0.9, 1.0)], second=True),
    Case("eval_jacobi", "x", jacobi, [range(0, 5), P, P, Z]),
    Case("eval_sh_jacobi", "x", sh_jacobi, [DEGREES, (2.0, 4.0), (0.5, 2.0), UNIT], second=True),
    Case("eval_sh_jacobi", "x", sh_jacobi, [REAL, (2.0, 4.0), (0.5, 2.0), (0.1, 1.0)]),
    Case("eval_sh_jacobi", "x", sh_jacobi, [range(0, 5), (2.0, 4.0), (0.5, 2.0), Z]),
    Case(
        "eval_gegenbauer",
        "x",
        gegenbauer,
        [DEGREES, (0.2, 3.0), X],
        [(n, 0.5, x) for n in range(5) for x in X],
        count=20,
        second=True,
    ),
    Case("eval_gegenbauer", "x", gegenbauer, [REAL, (0.2, 3.0), (-0.9, 1.0)], second=True),
    Case("eval_gegenbauer", "x", gegenbauer, [range(0, 5), (0.2, 3.0), Z]),
    Case("eval_genlaguerre", "x", laguerre, [DEGREES, P, (0.0, 6.0)], [(0, 1.0, 0.0)], second=True),
    Case("eval_genlaguerre", "x", laguerre, [REAL, P, (0.1, 6.0)], second=True),
    Case("eval_genlaguerre", "x", laguerre, [range(0, 5), P, Z]),
]
