"""The beta function, the incomplete one, and the distributions made of it."""

import math

import mpmath
from special.truth import Case, inverse

INF = math.inf
SHAPE = (0.3, 15.0)
UNIT = (0.05, 0.95)
TRIALS = range(8, 20)


def ibeta(a, b, x):
    return mpmath.betainc(a, b, 0, x, regularized=True)


def beta(a, b):
    return mpmath.gamma(a) * mpmath.gamma(b) * mpmath.rgamma(a + b)


def bdtrc(k, n, p):
    return ibeta(mpmath.floor(k) + 1, n - mpmath.floor(k), p)


def nbdtr(k, n, p):
    return ibeta(n, k + 1, p)


def fdtr(dfn, dfd, x):
    return ibeta(dfn / 2, dfd / 2, dfn * x / (dfd + dfn * x))


def stdtr(df, t):
    tail = ibeta(df / 2, mpmath.mpf(1) / 2, df / (df + t * t)) / 2
    return tail if t < 0 else 1 - tail


CASES = [
    Case("beta", "a b", beta, [SHAPE, SHAPE], second=True),
    Case(
        "beta",
        "a",
        beta,
        [(-4.9, -0.1), SHAPE],
        # Where Γ(a + b) has a pole: Γ(a)Γ(b) times the derivative of 1/Γ.
        exact={
            (-0.5, -0.5): -4 * math.pi,
            (-0.5, 0.5): -2 * math.pi,
            # 1/(a (a + 1)) at -3: -(2a + 1)/(a (a + 1))²
            (-3.0, 2.0): 5 / 36,
        },
        second=True,
    ),
    Case("betaln", "a b", lambda a, b: mpmath.log(abs(beta(a, b))), [SHAPE, SHAPE], second=True),
    Case(
        "betainc",
        "x",
        ibeta,
        [SHAPE, SHAPE, UNIT],
        exact={
            (1.0, 1.0, 0.0): 1.0,
            (1.0, 3.0, 0.0): 3.0,
            (2.0, 1.0, 1.0): 2.0,
            (2.0, 2.0, 0.0): 0.0,
            (0.5, 2.0, 0.0): INF,
        },
        second=True,
    ),
    Case("betaincc", "x", lambda a, b, x: 1 - ibeta(a, b, x), [SHAPE, SHAPE, UNIT], second=True),
    Case(
        "betaincinv",
        "y",
        inverse("betaincinv", lambda x, a, b, y: ibeta(a, b, x) - y),
        [SHAPE, SHAPE, UNIT],
        exact={(1.0, 1.0, 0.0): 1.0, (2.0, 2.0, 1.0): INF},
        second=True,
    ),
    Case(
        "betainccinv",
        "y",
        inverse("betainccinv", lambda x, a, b, y: 1 - ibeta(a, b, x) - y),
        [SHAPE, SHAPE, UNIT],
    ),
    Case(
        "bdtr",
        "p",
        lambda k, n, p: 1 - bdtrc(k, n, p),
        [(0.0, 8.0), TRIALS, UNIT],
        exact={(3.0, 3.0, 0.5): 0.0, (0.0, 2.0, 0.0): -2.0, (3.0, 3.0, 1.0): 0.0},
        second=True,
    ),
    Case("bdtrc", "p", bdtrc, [(0.0, 8.0), TRIALS, UNIT]),
    Case(
        "bdtri",
        "y",
        inverse("bdtri", lambda p, k, n, y: 1 - bdtrc(k, n, p) - y),
        [range(0, 8), TRIALS, UNIT],
    ),
    Case("nbdtr", "p", nbdtr, [range(0, 8), TRIALS, UNIT], second=True),
    Case("nbdtrc", "p", lambda k, n, p: 1 - nbdtr(k, n, p), [range(0, 8), TRIALS, UNIT]),
    Case(
        "nbdtri",
        "y",
        inverse("nbdtri", lambda p, k, n, y: nbdtr(k, n, p) - y),
        [range(0, 8), TRIALS, UNIT],
    ),
    Case(
        "fdtr",
        "x",
        fdtr,
        [SHAPE, SHAPE, (0.1, 5.0)],
        exact={(2.0, 4.0, 0.0): 1.0, (4.0, 4.0, 0.0): 0.0, (2.0, 4.0, INF): 0.0},
        second=True,
    ),
    Case("fdtrc", "x", lambda m, n, x: 1 - fdtr(m, n, x), [SHAPE, SHAPE, (0.1, 5.0)]),
    Case(
        "fdtri",
        "p",
        inverse("fdtri", lambda x, m, n, p: fdtr(m, n, x) - p),
        [SHAPE, SHAPE, UNIT],
    ),
    Case(
        "stdtr",
        "t",
        stdtr,
        [SHAPE, (-5.0, 5.0)],
        exact={
            (3.0, INF): 0.0,
            (INF, 0.0): 1 / math.sqrt(2 * math.pi),
            (1.0, 0.0): 1 / math.pi,
        },
        second=True,
    ),
    Case(
        "stdtrit",
        "p",
        inverse("stdtrit", lambda t, df, p: stdtr(df, t) - p),
        [SHAPE, UNIT],
    ),
]
