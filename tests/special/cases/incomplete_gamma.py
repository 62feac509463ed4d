"""The incomplete gamma functions, and the distributions made of them."""

import math

import mpmath
from special.truth import Case, inverse

INF = math.inf
SHAPE = (0.3, 20.0)
SIZE = (0.1, 20.0)
PROBABILITY = (0.05, 0.95)


def lower(a, x):
    return mpmath.gammainc(a, 0, x, regularized=True)


def upper(a, x):
    return mpmath.gammainc(a, x, regularized=True)


def chdtr(v, x):
    return lower(v / 2, x / 2)


def gdtr(a, b, x):
    return lower(b, a * x)


CASES = [
    Case("gammainc", "a x", lower, [SHAPE, SIZE], points=[(200.0, 210.0)]),
    Case(
        "gammainc",
        "x",
        lower,
        [SHAPE, SIZE],
        exact={(1.0, 0.0): 1.0, (2.0, 0.0): 0.0, (0.5, 0.0): INF, (2.0, INF): 0.0},
        second=True,
    ),
    Case("gammainc", "a", lower, [SHAPE, SIZE], exact={(1.0, 0.0): 0.0, (2.0, INF): 0.0}),
    Case("gammaincc", "a x", upper, [SHAPE, SIZE]),
    Case("gammaincc", "x", upper, [SHAPE, SIZE], exact={(1.0, 0.0): -1.0}, second=True),
    Case(
        "gammaincinv",
        "a y",
        inverse("gammaincinv", lambda x, a, y: lower(a, x) - y),
        [SHAPE, PROBABILITY],
    ),
    Case(
        "gammaincinv",
        "y",
        inverse("gammaincinv", lambda x, a, y: lower(a, x) - y),
        [SHAPE, PROBABILITY],
        exact={(1.0, 0.0): 1.0, (2.0, 0.0): INF, (0.5, 0.0): 0.0},
        second=True,
    ),
    Case(
        "gammainccinv",
        "a y",
        inverse("gammainccinv", lambda x, a, y: upper(a, x) - y),
        [SHAPE, PROBABILITY],
    ),
    Case("chdtr", "v x", chdtr, [SHAPE, SIZE], exact={(2.0, 0.0): 0.0}),
    Case("chdtrc", "v x", lambda v, x: upper(v / 2, x / 2), [SHAPE, SIZE]),
    Case(
        "chdtri",
        "v p",
        inverse("chdtri", lambda x, v, p: upper(v / 2, x / 2) - p),
        [SHAPE, PROBABILITY],
    ),
    Case(
        "chdtriv", "p x", inverse("chdtriv", lambda v, p, x: chdtr(v, x) - p), [PROBABILITY, SIZE]
    ),
    Case("gdtr", "a b x", gdtr, [(0.1, 3.0), SHAPE, SIZE]),
    Case("gdtrc", "a b x", lambda a, b, x: upper(b, a * x), [(0.1, 3.0), SHAPE, SIZE]),
    Case(
        "gdtria",
        "p b x",
        inverse("gdtria", lambda a, p, b, x: gdtr(a, b, x) - p),
        [PROBABILITY, SHAPE, SIZE],
    ),
    Case(
        "gdtrib",
        "a p x",
        inverse("gdtrib", lambda b, a, p, x: gdtr(a, b, x) - p),
        [(0.1, 3.0), PROBABILITY, (1.0, 20.0)],
    ),
    Case(
        "gdtrix",
        "a b p",
        inverse("gdtrix", lambda x, a, b, p: gdtr(a, b, x) - p),
        [(0.1, 3.0), SHAPE, PROBABILITY],
    ),
    Case(
        "pdtr",
        "m",
        lambda k, m: upper(mpmath.floor(k) + 1, m),
        [(0.0, 20.0), SIZE],
        exact={(0.0, 0.0): -1.0, (3.0, 0.0): 0.0},
        second=True,
    ),
    Case("pdtrc", "m", lambda k, m: lower(mpmath.floor(k) + 1, m), [(0.0, 20.0), SIZE]),
    Case(
        "pdtri",
        "y",
        inverse("pdtri", lambda m, k, y: upper(k + 1, m) - y),
        [range(0, 20), PROBABILITY],
    ),
    Case(
        "pdtrik",
        "p m",
        inverse("pdtrik", lambda k, p, m: upper(k + 1, m) - p),
        [(0.6, 0.95), (1.0, 20.0)],
    ),
]
