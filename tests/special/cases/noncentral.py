"""Noncentral distributions, as mixtures of central ones."""

import mpmath
from special.cases.incomplete_beta import ibeta
from special.cases.incomplete_gamma import lower
from special.truth import Case, inverse

FREEDOM = (1.5, 12.0)
UNIT = (0.05, 0.95)
NC = (0.1, 9.0)


def mixture(nc, term):
    """Σ Poisson(j; nc/2) term(j), up to where nothing is left."""
    terms = (mpmath.exp(-nc / 2) * (nc / 2) ** j / mpmath.factorial(j) * term(j) for j in range(60))
    return mpmath.fsum(terms)


def chndtr(x, df, nc):
    return mixture(nc, lambda j: lower(df / 2 + j, x / 2))


def ncfdtr(dfn, dfd, nc, f):
    y = dfn * f / (dfn * f + dfd)
    return mixture(nc, lambda j: ibeta(dfn / 2 + j, dfd / 2, y))


def nctdtr(df, nc, t):
    """∫ Φ(ts - μ) χ(s) ds."""
    scale = 2 * (df / 2) ** (df / 2) / mpmath.gamma(df / 2)

    def integrand(s):
        return mpmath.ncdf(t * s - nc) * scale * s ** (df - 1) * mpmath.exp(-df * s * s / 2)

    return mpmath.quad(integrand, [0, 0.5, 1, 1.5, 2, 3, 5, 9])


CASES = [
    Case("chndtr", "x nc", chndtr, [(0.1, 20.0), FREEDOM, NC]),
    Case(
        "chndtrix",
        "p nc",
        inverse("chndtrix", lambda x, p, df, nc: chndtr(x, df, nc) - p),
        [UNIT, FREEDOM, NC],
    ),
    Case(
        "chndtrinc",
        "x p",
        inverse("chndtrinc", lambda nc, x, df, p: chndtr(x, df, nc) - p),
        [(10.0, 20.0), (2.0, 4.0), (0.2, 0.7)],
    ),
    Case("ncfdtr", "nc f", ncfdtr, [FREEDOM, FREEDOM, NC, (0.1, 4.0)]),
    Case(
        "ncfdtri",
        "nc p",
        inverse("ncfdtri", lambda f, m, n, nc, p: ncfdtr(m, n, nc, f) - p),
        [FREEDOM, FREEDOM, NC, UNIT],
    ),
    Case(
        "ncfdtrinc",
        "p f",
        inverse("ncfdtrinc", lambda nc, m, n, p, f: ncfdtr(m, n, nc, f) - p),
        [(2.0, 6.0), (3.0, 9.0), (0.2, 0.4), (2.0, 4.0)],
    ),
    Case("nctdtr", "nc t", nctdtr, [FREEDOM, (-2.0, 3.0), (-3.0, 3.0)], points=[(4.0, 1.0, 0.0)]),
    Case(
        "nctdtrit",
        "nc p",
        inverse("nctdtrit", lambda t, df, nc, p: nctdtr(df, nc, t) - p),
        [FREEDOM, (-2.0, 3.0), UNIT],
    ),
    Case(
        "nctdtrinc",
        "p t",
        inverse("nctdtrinc", lambda nc, df, p, t: nctdtr(df, nc, t) - p),
        [FREEDOM, UNIT, (-2.0, 3.0)],
    ),
]
