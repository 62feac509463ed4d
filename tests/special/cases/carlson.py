"""Carlson's symmetric elliptic integrals."""

from mpmath import elliprc, elliprd, elliprf, elliprg, elliprj
from special.truth import Case, Disc

P = (0.1, 5.0)
RIGHT = Disc(2.0, 3.0)

CASES = [
    Case("elliprf", "x y z", elliprf, [P, P, P], [(1.0, 1.0, 1.0), (2.0, 2.0, 1.0)], second=True),
    Case("elliprf", "y z", elliprf, [[0.0], P, P], [(0.0, 1.0, 1.0)], second=True),
    Case("elliprf", "x y z", elliprf, [RIGHT, RIGHT, RIGHT]),
    Case(
        "elliprc",
        "x y",
        elliprc,
        [P, P],
        [(1.0, 1.0), (1.0, 1.0 + 1e-7), (3.0, 3.6), (1.0, 1.3)],
        second=True,
    ),
    Case("elliprc", "x y", elliprc, [P, (-5.0, -0.1)], second=True),
    Case("elliprc", "y", elliprc, [[0.0], P], second=True),
    Case("elliprc", "x y", elliprc, [RIGHT, RIGHT]),
    Case(
        "elliprd",
        "x y z",
        elliprd,
        [P, P, P],
        [(1.0, 1.0, 1.0), (2.0, 2.0, 1.0), (2.0, 1.0, 2.0), (1.0, 3.0, 1.0 + 1e-7)],
        second=True,
    ),
    Case("elliprd", "y z", elliprd, [[0.0], P, P], [(0.0, 1.0, 1.0)], second=True),
    Case("elliprd", "x z", elliprd, [RIGHT, RIGHT, RIGHT]),
    Case("elliprg", "x y z", elliprg, [P, P, P], [(1.0, 1.0, 1.0), (2.0, 2.0, 1.0)], second=True),
    Case("elliprg", "y z", elliprg, [[0.0], P, P], [(0.0, 1.0, 1.0)], second=True),
    Case("elliprg", "x y z", elliprg, [RIGHT, RIGHT, RIGHT]),
    Case("elliprj", "x p", elliprj, [P, P, P, P], second=True, count=4),
    Case("elliprj", "y z", elliprj, [P, P, P, P]),
    Case("elliprj", "y p", elliprj, [[0.0], P, P, P]),
    Case("elliprj", "x p", elliprj, [RIGHT, RIGHT, RIGHT, RIGHT]),
    Case(
        "elliprj",
        "x p",
        elliprj,
        [[1.0], [2.0], [3.0], [1.0 + 1e-5, 1.0 + 1e-6, 2.0 + 1e-7, 3.0, 1.0]],
    ),
]
