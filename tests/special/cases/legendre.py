"""Associated Legendre functions."""

from math import inf

from mpmath import legenp
from special.truth import Case


def lpmv(m, v, x):
    return legenp(v, m, x, type=2)


# P_v^m at 1, of order 0 and 2: v(v+1)/2 and -(v-1)v(v+1)(v+2)/4; at -1 by parity.
ENDS = {
    (0.0, 3.0, 1.0): 6.0,
    (0.0, 2.5, 1.0): 4.375,
    (0.0, 3.0, -1.0): 6.0,
    (0.0, 2.0, -1.0): -3.0,
    (1.0, 3.0, 1.0): inf,
    (2.0, 3.0, 1.0): -30.0,
    (2.0, 3.0, -1.0): -30.0,
    (-2.0, 3.0, 1.0): -0.25,
    (3.0, 4.0, 1.0): 0.0,
    (4.0, 4.0, -1.0): 0.0,
}

CASES = [
    Case("lpmv", "x", lpmv, [range(-3, 4), range(3, 9), (-0.99, 0.99)], exact=ENDS, count=10),
    Case("lpmv", "x", lpmv, [range(-3, 4), range(3, 9), (-0.99, 0.99)], second=True, count=3),
    Case("lpmv", "x", lpmv, [range(-3, 4), (3.1, 8.0), (-0.9, 0.99)], second=True, count=5),
    Case("lpmv", "x", lpmv, [[0.0, 1.0], [0.0, 1.0, 2.0], (-0.9, 0.99)]),
]
