"""Struve functions: DLMF chapter 11."""

import math
from typing import Any

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, derivatives

ORDER = NoClosedForm("the order of a Struve function")


def _inhomogeneity(v: Any, x: Any) -> Any:
    """(x/2)^v / (√π Γ(v + 3/2))"""
    return (x / 2) ** v * special.rgamma(v + 1.5) / math.sqrt(math.pi)


derivatives(
    "struve",
    source="DLMF 11.4.24",
    v=ORDER,
    x=lambda v, x: (special.struve(v - 1, x) - special.struve(v + 1, x) + _inhomogeneity(v, x)) / 2,
)
derivatives(
    "modstruve",
    source="DLMF 11.4.26",
    v=ORDER,
    x=lambda v, x: (
        (special.modstruve(v - 1, x) + special.modstruve(v + 1, x) + _inhomogeneity(v, x)) / 2
    ),
)
