"""Legendre's elliptic integrals and Jacobi's elliptic functions."""

from math import inf, pi

from mpmath import ellipe, ellipf, ellipfun, ellipk
from special.truth import Case

PARAMETERS = (-5.0, 0.99)
NEAR_1 = 1 - 1e-10


def jacobi(name):
    return lambda u, m: ellipfun(name, u, m=m)


def amplitude(u, m):
    """By Newton's method for F(φ|m) = u, with as many digits as there are."""
    import mpmath

    phi = mpmath.findroot(lambda t: ellipf(t, m) - u, u * pi / 2 / ellipk(m))
    return phi


CASES = [
    Case(
        "ellipk",
        "m",
        ellipk,
        [PARAMETERS],
        points=[(0.0,), (1e-9,), (-1e3,), (0.999,)],
        exact={(1.0,): inf},
        second=True,
    ),
    Case("ellipkm1", "p", lambda p: ellipk(1 - p), [(0.01, 3.0)], [(1e-12,), (1.0,)], second=True),
    Case(
        "ellipe",
        "m",
        ellipe,
        [PARAMETERS],
        points=[(0.0,), (1e-9,), (-1e3,), (0.999,)],
        exact={(1.0,): -inf},
        second=True,
    ),
    Case(
        "ellipkinc",
        "phi m",
        ellipf,
        [(-6.0, 6.0), PARAMETERS],
        points=[(0.7, 0.0), (0.7, 1.0), (2.0, 1e-9), (1e-3, 0.5), (1e-3, 1.0), (1.5, 0.9999)],
        exact={(pi / 2, 0.5): 2**0.5, (pi, 0.5): 1.0, (0.0, 0.5): 1.0},
        second=True,
    ),
    Case(
        "ellipeinc",
        "phi m",
        ellipe,
        [(-6.0, 6.0), PARAMETERS],
        points=[(0.7, 0.0), (0.7, 1.0), (2.0, 1e-9), (1e-3, 0.5), (1e-3, 1.0), (1.5, 0.9999)],
        exact={(pi / 2, 0.5): 0.5**0.5, (pi, 0.5): 1.0, (0.0, 0.5): 1.0},
        second=True,
    ),
    Case(
        "ellipj",
        "u m",
        (jacobi("sn"), jacobi("cn"), jacobi("dn"), None),
        [(-4.0, 6.0), (0.01, 0.99)],
        second=True,
    ),
    Case("ellipj", "u m", (None, None, None, amplitude), [(0.1, 1.5), (0.01, 0.99)], count=5),
]
