"""Hypergeometric functions: DLMF chapters 13, 15 and 16. Each derivative raises the parameters."""

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, derivatives

PARAMETER = NoClosedForm("a parameter of a hypergeometric function")

derivatives(
    "hyp0f1",
    source="DLMF 16.3.1",
    v=PARAMETER,
    z=lambda v, z: special.hyp0f1(v + 1, z) / v,
)
derivatives(
    "hyp1f1",
    source="DLMF 13.3.15",
    a=PARAMETER,
    b=PARAMETER,
    x=lambda a, b, x: a / b * special.hyp1f1(a + 1, b + 1, x),
)
derivatives(
    "hyp2f1",
    source="DLMF 15.5.1",
    a=PARAMETER,
    b=PARAMETER,
    c=PARAMETER,
    z=lambda a, b, c, z: a * b / c * special.hyp2f1(a + 1, b + 1, c + 1, z),
)
derivatives(
    "hyperu",
    source="DLMF 13.3.22",
    a=PARAMETER,
    b=PARAMETER,
    x=lambda a, b, x: -a * special.hyperu(a + 1, b + 1, x),
)
