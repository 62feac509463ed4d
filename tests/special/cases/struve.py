"""Struve functions."""

from math import pi

from mpmath import struveh, struvel
from special.truth import Case

ORDERS = (-2.4, 5.0)
AT_ZERO = {(0.0, 0.0): 2 / pi, (1.0, 0.0): 0.0, (2.0, 0.0): 0.0}

CASES = [
    Case("struve", "x", struveh, [ORDERS, (0.3, 12.0)], [(1.0, -2.0), (0.0, -2.0)], AT_ZERO, True),
    Case("modstruve", "x", struvel, [ORDERS, (0.3, 9.0)], [(1.0, -2.0)], AT_ZERO, True),
]
