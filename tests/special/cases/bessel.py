"""Bessel functions, Hankel functions, and the modified ones.

Scaled functions of a complex argument are in test_scaled.py: they are not holomorphic.
"""

from math import inf

from mpmath import besseli, besselj, besselk, bessely, exp, hankel1, hankel2, re
from special.truth import Case, Disc

ORDERS = (-3.5, 6.0)
RIGHT = Disc(4.0, 5.0)
AROUND = Disc(6.0)
INTEGERS = range(0, 7)
HALF = (0.5, 12.0)


def of_order(function, order, scale=lambda x: 1):
    return lambda x: function(order, x) * scale(x)


def scaled(function, scale):
    return lambda v, z: function(v, z) * scale(z)


def decay(z):
    return exp(-abs(re(z)))


CASES = [
    # At 0 the derivative of J and I is that of (z/2)^v / Γ(v+1).
    Case(
        "jv",
        "z",
        besselj,
        [ORDERS, HALF],
        points=[(2.0, -3.0), (0.0, 1e-8), (1.0, 1e-8), (30.0, 4.0), (1.5, 200.0)],
        exact={
            (0.0, 0.0): 0.0,
            (1.0, 0.0): 0.5,
            (-1.0, 0.0): -0.5,
            (2.0, 0.0): 0.0,
            (1.5, 0.0): 0.0,
            (0.5, 0.0): inf,
        },
        second=True,
    ),
    Case("jv", "z", besselj, [ORDERS, AROUND], second=True),
    Case("yv", "z", bessely, [ORDERS, HALF], points=[(2.5, 50.0)], second=True),
    Case("yv", "z", bessely, [ORDERS, RIGHT], second=True),
    Case("yn", "x", bessely, [INTEGERS, HALF], points=[(0, 0.01)], second=True),
    Case(
        "iv",
        "z",
        besseli,
        [ORDERS, HALF],
        points=[(2.0, -3.0), (0.0, 1e-8), (1.0, 1e-8), (1.5, 200.0)],
        exact={(0.0, 0.0): 0.0, (1.0, 0.0): 0.5, (2.0, 0.0): 0.0, (0.5, 0.0): inf},
        second=True,
    ),
    Case("iv", "z", besseli, [ORDERS, AROUND], second=True),
    Case("kv", "z", besselk, [ORDERS, HALF], points=[(0.3, 1e-3), (2.5, 200.0)], second=True),
    Case("kv", "z", besselk, [ORDERS, RIGHT], second=True),
    Case("kn", "x", besselk, [INTEGERS, HALF], points=[(0, 0.01)], second=True),
    Case("hankel1", "z", hankel1, [ORDERS, RIGHT], second=True),
    Case("hankel1", "z", hankel1, [ORDERS, HALF]),
    Case("hankel2", "z", hankel2, [ORDERS, RIGHT], second=True),
    Case("hankel2", "z", hankel2, [ORDERS, HALF]),
    Case(
        "j0", "x", of_order(besselj, 0), [HALF], points=[(-2.0,)], exact={(0.0,): 0.0}, second=True
    ),
    Case(
        "j1", "x", of_order(besselj, 1), [HALF], points=[(-2.0,)], exact={(0.0,): 0.5}, second=True
    ),
    Case("y0", "x", of_order(bessely, 0), [HALF], second=True),
    Case("y1", "x", of_order(bessely, 1), [HALF], second=True),
    Case(
        "i0", "x", of_order(besseli, 0), [HALF], points=[(-2.0,)], exact={(0.0,): 0.0}, second=True
    ),
    Case(
        "i1", "x", of_order(besseli, 1), [HALF], points=[(-2.0,)], exact={(0.0,): 0.5}, second=True
    ),
    Case("k0", "x", of_order(besselk, 0), [HALF], second=True),
    Case("k1", "x", of_order(besselk, 1), [HALF], exact={(0.0,): -inf}, second=True),
    # Scaled.
    Case("jve", "z", besselj, [ORDERS, HALF], exact={(1.0, 0.0): 0.5}, second=True),
    Case("yve", "z", bessely, [ORDERS, HALF], second=True),
    Case(
        "ive",
        "z",
        scaled(besseli, decay),
        [ORDERS, HALF],
        points=[(2.0, -3.0)],
        exact={(1.0, 0.0): 0.5},
        second=True,
    ),
    Case("kve", "z", scaled(besselk, exp), [ORDERS, HALF], second=True),
    Case("kve", "z", scaled(besselk, exp), [ORDERS, RIGHT], second=True),
    Case("hankel1e", "z", scaled(hankel1, lambda z: exp(-1j * z)), [ORDERS, RIGHT], second=True),
    Case("hankel2e", "z", scaled(hankel2, lambda z: exp(1j * z)), [ORDERS, RIGHT], second=True),
    Case("i0e", "x", of_order(besseli, 0, decay), [HALF], points=[(-2.0,)], second=True),
    Case(
        "i1e",
        "x",
        of_order(besseli, 1, decay),
        [HALF],
        points=[(-2.0,)],
        exact={(0.0,): 0.5},
        second=True,
    ),
    Case("k0e", "x", of_order(besselk, 0, exp), [HALF], second=True),
    Case("k1e", "x", of_order(besselk, 1, exp), [HALF], second=True),
]
