"""Parabolic cylinder functions, Mathieu functions and spheroidal wave functions.

mpmath has the first only. For the others the truth is differences of SciPy's values, whose
precision is that of SciPy's series.
"""

import mpmath
import scipy.special
from mpmath import pcfd, pcfv, pcfw
from special.truth import Case, Differences

ORDERS = [(-3.0, 4.0), (0.1, 4.0)]
ANGLES = (-180.0, 360.0)


def v_of_v(v, x):
    return pcfv(-v - mpmath.mpf(1) / 2, x)


def both(name, step=0.02):
    """The function and its derivative, which is SciPy's second result."""
    return Differences(name, 0, step), Differences(name, 1, step)


def mathieu(name, least, domain, step):
    return Case(
        name,
        "x",
        both(name, step),
        [range(least, least + 5), (0.5, 9.0), domain],
        # The odd function of order 0 is 0.
        exact={(0.0, 1.5, 0.5): (0.0, 0.0)} if least and domain is ANGLES else {},
    )


def spheroidal(name, c, x):
    """With and without the characteristic value."""
    plain = Case(name, "x", both(name, 0.005), [range(0, 3), range(2, 5), c, x])
    characteristic = getattr(scipy.special, f"{name[:3]}_cv")
    points = [
        (m, n, s, characteristic(m, n, s), t) for m, n, s, t in zip(*plain.sample(), strict=True)
    ]
    given = f"{name}_cv"
    return [plain, Case(given, "x", both(given, 0.005), (), points)]


CASES = [
    Case(
        "pbdv",
        "x",
        (pcfd, None),
        ORDERS,
        points=[(2.0, -1.5)],
        exact={(1.0, 0.0): (1.0, 0.0)},
        second=True,
    ),
    Case("pbdv", "x", both("pbdv"), ORDERS),
    Case("pbvv", "x", (v_of_v, None), ORDERS, second=True),
    Case("pbvv", "x", both("pbvv"), ORDERS),
    Case("pbwa", "x", (pcfw, None), [(-3.0, 4.0), (-4.0, 4.0)], second=True),
    Case("pbwa", "x", both("pbwa"), [(-3.0, 4.0), (-4.0, 4.0)]),
    mathieu("mathieu_cem", 0, ANGLES, step=1.0),
    mathieu("mathieu_sem", 1, ANGLES, step=1.0),
    # They oscillate as the cosine of exp(x) does.
    *(mathieu(f"mathieu_modcem{kind}", 0, (0.1, 2.0), step=0.003) for kind in "12"),
    *(mathieu(f"mathieu_modsem{kind}", 1, (0.1, 2.0), step=0.003) for kind in "12"),
    *spheroidal("pro_ang1", (0.5, 5.0), (-0.8, 0.8)),
    *spheroidal("obl_ang1", (0.5, 5.0), (-0.8, 0.8)),
    *spheroidal("pro_rad1", (0.5, 5.0), (1.2, 3.0)),
    *spheroidal("obl_rad1", (0.5, 5.0), (0.2, 3.0)),
    # SciPy's radial functions of the second kind are not smooth where c x is small: neighbouring
    # values differ by 1e-6 (prolate), or have not a digit in common (oblate, c x < 4).
    *spheroidal("pro_rad2", (2.0, 5.0), (2.0, 4.0)),
    *spheroidal("obl_rad2", (3.0, 5.0), (3.0, 5.0)),
]
