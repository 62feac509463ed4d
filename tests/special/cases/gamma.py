"""The gamma function and its kin."""

import math

import mpmath
from special.truth import Case, Disc

EULER = 0.5772156649015329


def poch(z, m):
    """Γ(z + m)/Γ(z); mpmath's `rf` is not differentiable at its zeros."""
    return mpmath.gamma(z + m) * mpmath.rgamma(z)


CASES = [
    Case("gamma", "z", mpmath.gamma, [(-4.9, 20.0)], points=[(-1.5,), (0.5,)], second=True),
    Case("gamma", "z", mpmath.gamma, [Disc(5.0)], second=True),
    Case(
        "gammaln",
        "x",
        lambda x: mpmath.log(abs(mpmath.gamma(x))),
        [(-4.9, 50.0)],
        points=[(-1.5,)],
        second=True,
    ),
    Case("loggamma", "z", mpmath.loggamma, [(0.1, 50.0)], second=True),
    Case("loggamma", "z", mpmath.loggamma, [Disc(8.0)], second=True),
    Case("digamma", "z", mpmath.digamma, [(-4.9, 20.0)], points=[(-1.5,), (0.5,)], second=True),
    Case("digamma", "z", mpmath.digamma, [Disc(8.0)], second=True),
    Case(
        "digamma",
        "z",
        mpmath.digamma,
        [Disc(2.0, centre=-3.0 + 40.0j)],
        points=[(3.0 + 200.0j,), (-2.0 + 1e-3j,), (0.5,), (1e4 - 1e4j,)],
        second=True,
    ),
    Case(
        "rgamma",
        "z",
        mpmath.rgamma,
        [(-6.0, 15.0)],
        points=[(0.5,), (-1 + 1e-9,)],
        # At a pole of Γ at -n: (-1)ⁿ n!
        exact={(float(-n),): (-1) ** n * math.factorial(n) for n in range(8)},
        second=True,
    ),
    Case("rgamma", "z", mpmath.rgamma, [Disc(4.0)], points=[(-2.0,), (-3 + 1e-6j,)], second=True),
    Case("rgamma", "z", mpmath.rgamma, [[-3.0, -2.0, -1.0, 0.0]], second=True),
    Case("poch", "z m", poch, [(0.2, 9.0), (-0.1, 9.0)], second=True),
    Case(
        "poch",
        "z",
        poch,
        [(-4.9, -0.1), (0.0, 6.0)],
        # (-3)(-2)(-1)0 by its first factor's variable, and a product without a zero.
        exact={
            (-3.0, 4.0): -6.0,
            (0.0, 1.0): 1.0,
            (-4.0, 2.0): -7.0,
            (-1.0, 2.5): -math.gamma(1.5),
        },
        second=True,
    ),
    Case("binom", "x y", mpmath.binomial, [(0.5, 20.0), (-3.0, 20.0)], second=True),
    Case(
        "binom",
        "x",
        mpmath.binomial,
        [(4.0, 9.0), range(0, 5)],
        # x(x - 1)(x - 2)/6 has the derivative 1/3 at 0, and -1/6 at 1.
        exact={(0.0, 3.0): 1 / 3, (1.0, 3.0): -1 / 6, (5.0, 0.0): 0.0, (1e3, 1.0): 1.0},
    ),
    Case(
        "binom",
        "y",
        mpmath.binomial,
        [(4.0, 9.0), (0.0, 4.0)],
        exact={(2.0, 3.0): -1 / 3, (2.0, -1.0): 1 / 3, (2.0, 1.0): 0.0},
        rtol=1e-9,
    ),
    Case("_zeta", "q", mpmath.zeta, [(1.5, 9.0), (0.5, 20.0)], second=True),
]
