"""Airy functions. Those scaled, of a complex argument, are in test_scaled.py."""

import mpmath
from mpmath import airyai, airybi, exp, mpf, sqrt
from special.truth import Case, Disc


def prime(function):
    return lambda z: function(z, derivative=1)


def grown(function):
    return lambda z: exp(mpf(2) / 3 * z * sqrt(z)) * function(z)


def shrunk(function):
    return lambda z: exp(-abs(mpmath.re(mpf(2) / 3 * z * sqrt(z)))) * function(z)


AIRY = (airyai, prime(airyai), airybi, prime(airybi))
AIRYE = (grown(airyai), grown(prime(airyai)), shrunk(airybi), shrunk(prime(airybi)))

CASES = [
    Case("airy", "z", AIRY, [(-6.0, 6.0)], points=[(0.0,), (1e-9,)], second=True),
    Case("airy", "z", AIRY, [Disc(5.0)], second=True),
    Case("airye", "z", AIRYE, [(0.05, 12.0)], second=True),
    # Where z is negative SciPy has no Ai.
    Case("airye", "z", (None, None, airybi, prime(airybi)), [(-8.0, -0.1)], second=True),
]
