"""The error functions and their kin."""

import math

import mpmath
from mpmath import exp, mpc, pi, sqrt
from special.truth import Case, Disc, inverse

INF = math.inf


def erfcx(z):
    return exp(z * z) * mpmath.erfc(z)


def wofz(z):
    return exp(-z * z) * mpmath.erfc(-1j * z)


def dawsn(z):
    return sqrt(pi) / 2 * exp(-z * z) * mpmath.erfi(z)


def log_ndtr(x):
    return mpmath.log(mpmath.erfc(-x / sqrt(2)) / 2)


def modfresnel(sign):
    turn = exp(-sign * 1j * pi / 4)

    def integral(x):
        return sqrt(pi) / 2 / turn * mpmath.erfc(turn * x)

    return integral, lambda x: erfcx(turn * x) / 2


def voigt(x, sigma, gamma):
    return mpmath.re(wofz(mpc(x, gamma) / (sigma * sqrt(2)))) / (sigma * sqrt(2 * pi))


def owens_t(h, a):
    def integrand(x):
        return exp(-h * h * (1 + x * x) / 2) / (1 + x * x)

    return mpmath.quad(integrand, [0, a]) / (2 * pi)


CASES = [
    Case("erf", "z", mpmath.erf, [(-5.0, 5.0)], exact={(INF,): 0.0, (-INF,): 0.0}, second=True),
    Case("erf", "z", mpmath.erf, [Disc(3.0)], second=True),
    Case("erfc", "x", mpmath.erfc, [(-5.0, 9.0)], exact={(INF,): 0.0}, second=True),
    Case("erfc", "x", mpmath.erfc, [Disc(3.0)], second=True),
    Case("erfi", "z", mpmath.erfi, [(-5.0, 5.0)], second=True),
    Case("erfi", "z", mpmath.erfi, [Disc(3.0)], second=True),
    Case(
        "erfcx",
        "x",
        erfcx,
        [(-5.0, 9.9)],
        points=[(10.0,), (10.1,), (-10.5,), (1e3,), (1e8,)],
        exact={(INF,): 0.0},
        second=True,
    ),
    Case("erfcx", "x", erfcx, [Disc(6.0)], points=[(30 + 30j,), (-9 + 12j,), (1e3j,)], second=True),
    Case(
        "dawsn",
        "x",
        dawsn,
        [(-9.9, 9.9)],
        points=[(10.1,), (-50.0,), (1e6,)],
        exact={(INF,): 0.0},
        second=True,
    ),
    Case("dawsn", "x", dawsn, [Disc(4.0)], points=[(20 + 1j,), (10 - 11j,), (12j,)], second=True),
    Case("wofz", "z", wofz, [Disc(4.0)], points=[(20 + 1j,), (10 + 11j,), (1e5,)], second=True),
    Case("erfinv", "y", mpmath.erfinv, [(-0.999, 0.999)], exact={(1.0,): INF}, second=True),
    Case(
        "erfcinv",
        "y",
        inverse("erfcinv", lambda x, y: mpmath.erfc(x) - y),
        [(1e-6, 1.999)],
        exact={(0.0,): -INF},
        second=True,
    ),
    Case("fresnel", "z", (mpmath.fresnels, mpmath.fresnelc), [(-5.0, 5.0)], second=True),
    Case("fresnel", "z", (mpmath.fresnels, mpmath.fresnelc), [Disc(3.0)], second=True),
    Case("modfresnelp", "x", modfresnel(1), [(-3.0, 12.0)], points=[(100.0,)], second=True),
    Case("modfresnelm", "x", modfresnel(-1), [(-3.0, 12.0)], points=[(100.0,)], second=True),
    Case("ndtr", "x", mpmath.ncdf, [(-8.0, 8.0)], exact={(INF,): 0.0}, second=True),
    Case("ndtr", "x", lambda x: mpmath.erfc(-x / sqrt(2)) / 2, [Disc(3.0)], second=True),
    Case(
        "log_ndtr",
        "x",
        log_ndtr,
        [(-9.0, 6.0)],
        points=[(0.0,), (-1e3,)],
        exact={(INF,): 0.0, (-INF,): INF},
        second=True,
    ),
    Case("log_ndtr", "x", log_ndtr, [Disc(2.0)], second=True),
    Case(
        "ndtri",
        "y",
        inverse("ndtri", lambda x, y: mpmath.log(mpmath.ncdf(x) / y)),
        [(1e-4, 0.999)],
        points=[(1e-6,)],
        exact={(0.0,): INF, (1.0,): INF},
        second=True,
    ),
    Case(
        "ndtri_exp",
        "y",
        inverse("ndtri_exp", lambda x, y: log_ndtr(x) - y),
        [(-9.0, -0.01)],
        points=[(-1e5,)],
        second=True,
    ),
    Case(
        "voigt_profile",
        "x sigma gamma",
        voigt,
        [(-3.0, 3.0), (0.3, 3.0), (0.1, 3.0)],
        second=True,
    ),
    Case(
        "voigt_profile",
        "gamma",
        voigt,
        [(-3.0, 3.0), (0.3, 3.0), (0.1, 3.0)],
        exact={(2.0, 0.0, 1.0): 3 / (25 * math.pi), (0.0, 0.0, 1.0): -1 / math.pi},
    ),
    Case(
        "owens_t",
        "h a",
        owens_t,
        [(-3.0, 3.0), (-3.0, 3.0)],
        points=[(0.0, 0.5), (1.0, 0.0)],
        second=True,
    ),
    Case(
        "owens_t",
        "a",
        owens_t,
        [(-3.0, 3.0), (-3.0, 3.0)],
        exact={(0.0, INF): 0.0, (1.0, INF): 0.0, (INF, 0.5): 0.0},
    ),
]
