"""The gamma function and its kin."""

import mpmath
from special.truth import Case

CASES = [
    Case("gamma", "z", mpmath.gamma, [(0.1, 20.0)], points=[(-1.5,), (0.5,)], second=True),
    Case("gammaln", "x", mpmath.loggamma, [(0.1, 50.0)], points=[(-1.5,)], second=True),
    Case("digamma", "z", mpmath.digamma, [(0.1, 20.0)], points=[(-1.5,), (0.5,)], second=True),
]
