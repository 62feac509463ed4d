"""Hypergeometric functions."""

from mpmath import hyp0f1, hyp1f1, hyp2f1, hyperu
from special.truth import Case, Disc

P = (0.2, 4.0)

AT_ONE = {(0.3, 0.4, 2.5, 1.0): float(0.3 * 0.4 / 2.5 * hyp2f1(1.3, 1.4, 3.5, 1))}

CASES = [
    Case("hyp0f1", "z", hyp0f1, [P, (-9.0, 9.0)], [(1.5, 0.0), (-0.5, 2.0)], second=True),
    Case("hyp0f1", "z", hyp0f1, [P, Disc(8.0)], second=True),
    Case(
        "hyp1f1", "x", hyp1f1, [P, P, (-5.0, 5.0)], [(0.5, 1.5, 0.0), (-2.0, 1.5, 3.0)], second=True
    ),
    Case("hyp1f1", "x", hyp1f1, [P, P, Disc(5.0)], second=True),
    Case("hyp2f1", "z", hyp2f1, [P, P, P, (-3.0, 0.9)], [(-2.0, 1.5, 0.7, 0.5)], second=True),
    Case("hyp2f1", "z", hyp2f1, [P, P, P, Disc(0.8)], second=True),
    Case("hyp2f1", "z", hyp2f1, [[0.3], [0.4], [2.5], (0.9, 0.999)], exact=AT_ONE),
    Case(
        "hyperu",
        "x",
        hyperu,
        [P, P, (0.3, 9.0)],
        points=[(-2.0, 1.5, 3.0), (0.0, 1.5, 3.0)],
        second=True,
        rtol=1e-8,
        why="SciPy's own relative error is up to 1e-9",
    ),
]
