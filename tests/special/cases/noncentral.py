"""Noncentral distributions, as mixtures of central ones."""

import mpmath
from special.cases.incomplete_beta import ibeta
from special.cases.incomplete_gamma import lower
from special.truth import Case, inverse

FREEDOM = (1.5, 12.0)
UNIT = (0.05, 0.95)
NC = (0.1, 4.0)
TERMS = 30
FEW = 3


def weights(mean, shift=0):
    """exp(-m) mʲ/Γ(j + 1 + s) for j = 0, 1, …: for s = 0 a Poisson distribution."""
    weight = mpmath.exp(-mean) * mpmath.rgamma(1 + shift)
    for j in range(TERMS):
        yield weight
        weight = weight * mean / (j + 1 + shift)


def chndtr(x, df, nc):
    return mpmath.fsum(w * lower(df / 2 + j, x / 2) for j, w in enumerate(weights(nc / 2)))


def ncfdtr(dfn, dfd, nc, f):
    y = dfn * f / (dfn * f + dfd)
    return mpmath.fsum(w * ibeta(dfn / 2 + j, dfd / 2, y) for j, w in enumerate(weights(nc / 2)))


def nctdtr(df, nc, t):
    if t < 0:
        return 1 - nctdtr(df, -nc, -t)
    y, mean, half = t * t / (df + t * t), nc * nc / 2, mpmath.mpf(1) / 2
    even = (w * ibeta(j + half, df / 2, y) for j, w in enumerate(weights(mean)))
    odd = (w * ibeta(j + 1, df / 2, y) for j, w in enumerate(weights(mean, half)))
    mixed = mpmath.fsum(even) + nc / mpmath.sqrt(2) * mpmath.fsum(odd)
    return mpmath.ncdf(-nc) + mixed / 2


chndtrix = inverse("chndtrix", lambda x, p, df, nc: chndtr(x, df, nc) - p)
chndtrinc = inverse("chndtrinc", lambda nc, x, df, p: chndtr(x, df, nc) - p)
ncfdtri = inverse("ncfdtri", lambda f, m, n, nc, p: ncfdtr(m, n, nc, f) - p)
ncfdtrinc = inverse("ncfdtrinc", lambda nc, m, n, p, f: ncfdtr(m, n, nc, f) - p)
nctdtrit = inverse("nctdtrit", lambda t, df, nc, p: nctdtr(df, nc, t) - p)
nctdtrinc = inverse("nctdtrinc", lambda nc, df, p, t: nctdtr(df, nc, t) - p)

CASES = [
    Case("chndtr", "x nc", chndtr, [(0.1, 20.0), FREEDOM, NC], count=8),
    Case("chndtrix", "p nc", chndtrix, [UNIT, FREEDOM, NC], count=FEW),
    Case("chndtrinc", "x p", chndtrinc, [(5.0, 8.0), (2.0, 4.0), (0.4, 0.6)], count=FEW),
    Case("ncfdtr", "nc f", ncfdtr, [FREEDOM, FREEDOM, NC, (0.1, 4.0)], count=8),
    Case("ncfdtri", "nc p", ncfdtri, [FREEDOM, FREEDOM, NC, UNIT], count=FEW),
    Case(
        "ncfdtrinc",
        "p f",
        ncfdtrinc,
        [(2.0, 6.0), (3.0, 9.0), (0.3, 0.5), (1.5, 2.0)],
        count=FEW,
        rtol=1e-4,
        why="the relative error of SciPy's own value",
    ),
    Case("nctdtr", "nc t", nctdtr, [FREEDOM, (-2.0, 3.0), (-3.0, 3.0)], count=8),
    Case("nctdtrit", "nc p", nctdtrit, [FREEDOM, (-2.0, 3.0), UNIT], count=FEW),
    Case(
        "nctdtrinc",
        "p t",
        nctdtrinc,
        [FREEDOM, UNIT, (-2.0, 3.0)],
        count=FEW,
        rtol=1e-7,
        why="the relative error of SciPy's own value",
    ),
]
