"""Exponential, logarithmic, sine and cosine integrals."""

import math

import mpmath
from special.truth import Case, Disc

INF = math.inf
HALF_PLANE = Disc(4.0, centre=5.0)


def spence(z):
    return mpmath.polylog(2, 1 - z)


CASES = [
    Case("exp1", "z", mpmath.e1, [(0.01, 20.0)], exact={(0.0,): -INF, (INF,): 0.0}, second=True),
    Case("exp1", "z", mpmath.e1, [HALF_PLANE], second=True),
    Case("expi", "x", mpmath.ei, [(-9.0, 20.0)], exact={(-INF,): 0.0}, second=True),
    Case("expi", "x", mpmath.ei, [HALF_PLANE], second=True),
    Case("expn", "x", mpmath.expint, [range(0, 9), (0.05, 20.0)], second=True),
    Case("expn", "x", mpmath.expint, [range(0, 9), (0.05, 1.0)], exact={(3.0, 0.0): -1.0}),
    Case(
        "shichi",
        "x",
        (mpmath.shi, mpmath.chi),
        [(0.01, 9.0)],
        points=[(1e-8,)],
        exact={(0.0,): (1.0, INF)},
        second=True,
    ),
    Case("shichi", "x", (mpmath.shi, mpmath.chi), [HALF_PLANE], points=[(1e-8j,)], second=True),
    Case(
        "sici",
        "x",
        (mpmath.si, mpmath.ci),
        [(0.01, 50.0)],
        points=[(1e-8,)],
        exact={(0.0,): (1.0, INF)},
        second=True,
    ),
    Case("sici", "x", (mpmath.si, mpmath.ci), [HALF_PLANE], points=[(1e-8j,)], second=True),
    Case("spence", "z", spence, [(0.01, 9.0)], points=[(1 + 1e-9,)], exact={(1.0,): -1.0}),
    Case("spence", "z", spence, [HALF_PLANE], points=[(1 + 1e-9j,)]),
]
