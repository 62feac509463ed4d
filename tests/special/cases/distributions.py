"""Distributions that are neither of the gamma nor of the beta kind."""

import math

import mpmath
from special.truth import Case, inverse

UNIT = (0.05, 0.95)


def kolmogorov(y):
    return -mpmath.jtheta(4, 0, mpmath.exp(-2 * y * y)) + 1


def smirnov(n, d):
    n = int(n)
    terms = (
        mpmath.binomial(n, j)
        * (d + mpmath.mpf(j) / n) ** (j - 1)
        * (1 - d - mpmath.mpf(j) / n) ** (n - j)
        for j in range(int(n * (1 - d)) + 1)
    )
    return d * mpmath.fsum(terms)


def quantile(p, lmbda):
    """Tukey's: (p^λ - (1 - p)^λ)/λ."""
    if lmbda == 0:
        return mpmath.log(p / (1 - p))
    return (p**lmbda - (1 - p) ** lmbda) / lmbda


tklmbda = inverse("tklmbda", lambda p, x, lmbda: quantile(p, lmbda) - x)


def normal_quantile(p):
    return mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1)


CASES = [
    Case(
        "kolmogorov",
        "y",
        kolmogorov,
        [(0.1, 3.0)],
        points=[(0.999,), (1.0,), (1.001,)],
        exact={(0.0,): 0.0, (-1.0,): 0.0, (math.inf,): 0.0},
        second=True,
    ),
    Case("kolmogi", "p", inverse("kolmogi", lambda y, p: kolmogorov(y) - p), [UNIT], second=True),
    Case("smirnov", "d", smirnov, [range(2, 30), (0.02, 0.98)]),
    Case(
        "smirnovi",
        "p",
        inverse("smirnovi", lambda d, n, p: smirnov(n, d) - p),
        [range(2, 30), UNIT],
    ),
    Case("tklmbda", "x lmbda", tklmbda, [(-0.3, 0.3), (-2.0, 3.0)], second=True),
    Case(
        "tklmbda",
        "lmbda",
        tklmbda,
        [(-0.3, 0.3), (-1.0, 1.0)],
        # The derivative in λ at 0: -(log²p - log²q)/2 times the logistic density pq.
        exact={
            (0.0, 2.0): 0.0,
            (math.log(3.0), 0.0): -(math.log(0.75) ** 2 - math.log(0.25) ** 2) / 2 * 3 / 16,
            (9.0, 1.0): 0.0,
        },
    ),
    Case(
        "nrdtrimn",
        "p std x",
        lambda p, std, x: x - std * normal_quantile(p),
        [UNIT, (0.1, 5.0), (-5.0, 5.0)],
    ),
    Case(
        "nrdtrisd",
        "mn p x",
        lambda mn, p, x: (x - mn) / normal_quantile(p),
        [(-5.0, 0.0), (0.55, 0.95), (0.0, 5.0)],
    ),
]
