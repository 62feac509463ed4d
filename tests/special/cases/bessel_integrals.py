"""Integrals of Bessel, Airy and Struve functions."""

from math import inf, pi

import mpmath
from mpmath import (
    airyai,
    airybi,
    besselk,
    bessely,
    gamma,
    hyp1f2,
    hyper,
    struveh,
    struvel,
)
from special.truth import Case, Differences

HALF = (0.3, 12.0)


def integral_of_j0(x):
    return x * hyp1f2(0.5, 1, 1.5, -x * x / 4)


def integral_of_y0(x):  # DLMF 10.22.2
    return mpmath.pi * x / 2 * (bessely(0, x) * struveh(-1, x) + bessely(1, x) * struveh(0, x))


def integral_of_i0(x):
    return x * hyp1f2(0.5, 1, 1.5, x * x / 4)


def integral_of_k0(x):  # DLMF 10.43.2
    return mpmath.pi * x / 2 * (besselk(0, x) * struvel(-1, x) + besselk(1, x) * struvel(0, x))


def integral_of_one_less_j0(x):
    return x * x / 8 * hyper([1, 1], [2, 2, 2], -x * x / 4)


def integral_of_i0_less_one(x):
    return x * x / 8 * hyper([1, 1], [2, 2, 2], x * x / 4)


def besselpoly(a, lmb, nu):
    """The series of J integrated term by term, a 1F2."""
    b = (lmb + nu + 1) / 2
    return a**nu / (2 * b * gamma(nu + 1)) * hyp1f2(b, b + 1, nu + 1, -a * a)


CASES = [
    Case("itj0y0", "x", (integral_of_j0, integral_of_y0), [HALF], exact={(0.0,): (1.0, -inf)}),
    Case("iti0k0", "x", (integral_of_i0, integral_of_k0), [HALF], exact={(0.0,): (1.0, inf)}),
    Case("it2j0y0", "x", (integral_of_one_less_j0, None), [HALF], points=[(1e-9,), (0.99,)]),
    Case("it2j0y0", "x", (None, Differences("it2j0y0", 1)), [HALF]),
    Case("it2i0k0", "x", (integral_of_i0_less_one, None), [HALF], points=[(1e-9,), (0.99,)]),
    # SciPy's second result has lost digits by cancellation where it is small.
    Case("it2i0k0", "x", (None, Differences("it2i0k0", 1)), [(1.0, 3.0)]),
    Case(
        "itairy",
        "x",
        (
            lambda x: airyai(x, derivative=-1),
            lambda x: airybi(x, derivative=-1),
            lambda x: -airyai(-x, derivative=-1),
            lambda x: -airybi(-x, derivative=-1),
        ),
        [(-4.0, 4.0)],
        points=[(0.0,)],
        second=True,
    ),
    Case("itstruve0", "x", Differences("itstruve0"), [HALF]),
    Case("itmodstruve0", "x", Differences("itmodstruve0"), [HALF]),
    Case(
        "it2struve0",
        "x",
        Differences("it2struve0"),
        [HALF],
        exact={(0.0,): -2 / pi},
    ),
    Case("besselpoly", "a", besselpoly, [(0.1, 5.0), (0.0, 3.0), range(0, 5)], second=True),
    Case(
        "besselpoly",
        "a",
        besselpoly,
        [(0.1, 5.0), (0.0, 3.0), (1.1, 3.0)],
        exact={(0.0, 1.0, 0.0): 0.0, (0.0, 1.0, 1.0): 1 / 3},
    ),
]
