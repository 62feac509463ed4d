"""Combinations of elementary functions, and their inverses."""

import math

import mpmath
from mpmath import log, mpf
from special.truth import Case, Disc

INF = math.inf
POSITIVE = (0.05, 20.0)
REAL = (-5.0, 5.0)


def xlogy(x, y):
    return x * log(y)


def rel_entr(x, y):
    return x * log(x / y)


def huber(delta, r):
    return r * r / 2 if abs(r) <= delta else delta * (abs(r) - delta / 2)


def pseudo_huber(delta, r):
    return delta**2 * (mpmath.sqrt(1 + (r / delta) ** 2) - 1)


def boxcox(x, power):
    return log(x) if power == 0 else mpmath.expm1(power * log(x)) / power


def inv_boxcox(y, power):
    return mpmath.exp(y if power == 0 else mpmath.log1p(power * y) / power)


def exprel(x):
    return mpmath.expm1(x) / x if x else mpf(1)


def wrightomega(z):
    """The branch of W(exp(z)) that is continuous along the real line: ω + log ω = z."""
    return mpmath.lambertw(mpmath.exp(z), mpmath.ceil((mpmath.im(z) - mpmath.pi) / mpmath.pi / 2))


def wright_bessel(a, b, x):
    return mpmath.fsum(x**k * mpmath.rgamma(a * k + b) / mpmath.factorial(k) for k in range(80))


def degrees(f):
    return lambda x: f(mpmath.radians(x))


def radian(d, m, s):
    return mpmath.radians(d + m / 60 + s / 3600)


CASES = [
    Case("entr", "x", lambda x: -x * log(x), [POSITIVE], exact={(0.0,): INF}, second=True),
    Case("rel_entr", "x y", rel_entr, [POSITIVE, POSITIVE], points=[(2.0, 2.0)]),
    Case("rel_entr", "y", rel_entr, [POSITIVE] * 2, exact={(0.0, 0.0): 0.0, (0.0, 2.0): 0.0}),
    Case("rel_entr", "x", rel_entr, [POSITIVE] * 2, exact={(0.0, 2.0): -INF}),
    Case(
        "kl_div",
        "x y",
        lambda x, y: rel_entr(x, y) - x + y,
        [POSITIVE, POSITIVE],
        points=[(1.0, 1 + 1e-9), (1e5, 1e-5)],
        exact={(2.0, 2.0): 0.0, (0.0, 1.0): -INF},
    ),
    Case("huber", "delta r", huber, [POSITIVE, REAL], exact={(1.0, 1.0): 0.0, (0.0, 2.0): 2.0}),
    Case(
        "pseudo_huber",
        "delta r",
        pseudo_huber,
        [POSITIVE, REAL],
        points=[(1e3, 1e-2)],
        exact={(0.0, 3.0): 3.0, (0.0, 0.0): 0.0, (2.0, 0.0): 0.0},
        second=True,
    ),
    Case("pseudo_huber", "r", pseudo_huber, [POSITIVE, REAL], exact={(0.0, 3.0): 0.0}),
    Case("boxcox", "x lmbda", boxcox, [POSITIVE, REAL], second=True),
    Case(
        "boxcox",
        "lmbda",
        boxcox,
        [POSITIVE, (-1e-3, 1e-3)],
        exact={(math.e, 0.0): 0.5, (0.0, 2.0): 0.25, (1.0, 3.0): 0.0},
    ),
    Case("boxcox1p", "x lmbda", lambda x, p: boxcox(1 + x, p), [POSITIVE, REAL], second=True),
    Case("inv_boxcox", "y lmbda", inv_boxcox, [(0.1, 5.0), (0.0, 3.0)], second=True),
    Case("inv_boxcox", "lmbda", inv_boxcox, [(0.1, 5.0)] * 2, exact={(1.0, 0.0): -math.e / 2}),
    Case(
        "inv_boxcox1p",
        "y lmbda",
        lambda y, p: inv_boxcox(y, p) - 1,
        [(0.1, 5.0), (0.0, 3.0)],
        second=True,
    ),
    Case(
        "exprel",
        "x",
        exprel,
        [(-3.0, 3.0)],
        points=[(1e-9,), (-30.0,), (50.0,), (1.0,), (-1.0,)],
        exact={(0.0,): 0.5, (INF,): INF, (-INF,): 0.0},
        second=True,
    ),
    Case("expit", "x", lambda x: 1 / (1 + mpmath.exp(-x)), [(-50.0, 50.0)], second=True),
    Case(
        "log_expit",
        "x",
        lambda x: -mpmath.log1p(mpmath.exp(-x)),
        [(-50.0, 50.0)],
        exact={(-INF,): 1.0, (INF,): 0.0},
        second=True,
    ),
    Case("logit", "x", lambda x: log(x / (1 - x)), [(0.01, 0.99)], exact={(0.0,): INF}),
    Case("log1p", "x", mpmath.log1p, [(-0.9, 9.0)], exact={(-1.0,): INF}, second=True),
    Case("log1p", "x", mpmath.log1p, [Disc(3.0)], second=True),
    Case("expm1", "x", mpmath.expm1, [REAL], second=True),
    Case("expm1", "x", mpmath.expm1, [Disc(3.0)], second=True),
    Case("cosm1", "x", lambda x: mpmath.cos(x) - 1, [REAL], points=[(1e-9,)], second=True),
    Case("xlogy", "x y", xlogy, [REAL, POSITIVE], second=True),
    Case("xlogy", "x y", xlogy, [Disc(3.0), Disc(2.0, centre=3.0)], second=True),
    Case("xlogy", "y", xlogy, [REAL, POSITIVE], exact={(0.0, 0.0): 0.0, (0.0, 2.0): 0.0}),
    Case("xlog1py", "x y", lambda x, y: x * mpmath.log1p(y), [REAL, (-0.9, 9.0)], second=True),
    Case("xlog1py", "x y", lambda x, y: x * mpmath.log1p(y), [Disc(3.0), Disc(0.9)], second=True),
    Case("powm1", "x y", lambda x, y: x**y - 1, [POSITIVE, REAL], second=True),
    Case("powm1", "x", lambda x, y: x**y - 1, [POSITIVE, REAL], exact={(0.0, 0.0): 0.0}),
    Case("powm1", "y", lambda x, y: x**y - 1, [POSITIVE, REAL], exact={(0.0, 2.0): 0.0}),
    Case("exp2", "x", lambda x: mpf(2) ** x, [REAL], second=True),
    Case("exp10", "x", lambda x: mpf(10) ** x, [REAL], second=True),
    Case(
        "cbrt",
        "x",
        lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)),
        [REAL],
        exact={(0.0,): INF},
        second=True,
    ),
    Case("sindg", "x", degrees(mpmath.sin), [(-720.0, 720.0)], exact={(90.0,): 0.0}, second=True),
    Case("cosdg", "x", degrees(mpmath.cos), [(-720.0, 720.0)], exact={(180.0,): 0.0}, second=True),
    Case("tandg", "x", degrees(mpmath.tan), [(-80.0, 80.0)], second=True),
    Case("cotdg", "x", degrees(mpmath.cot), [(10.0, 170.0)], second=True),
    Case("radian", "d m s", radian, [(0.0, 90.0), (0.0, 60.0), (0.0, 60.0)]),
    Case(
        "agm",
        "a b",
        mpmath.agm,
        [POSITIVE, POSITIVE],
        points=[(2.0, 2.0), (1e-6, 1.0)],
        exact={(0.0, 1.0): INF, (1.0, 0.0): 0.0, (-3.0, -3.0): 0.5},
        second=True,
    ),
    Case(
        "wrightomega",
        "z",
        wrightomega,
        [(-20.0, 50.0)],
        exact={(INF,): 1.0, (-INF,): 0.0, (1.0,): 0.5},
        second=True,
    ),
    Case("wrightomega", "z", wrightomega, [Disc(3.0, centre=5j)], points=[(1e5j,)], second=True),
    Case("wright_bessel", "x", wright_bessel, [(0.0, 3.0), (0.0, 5.0), (0.1, 9.0)], second=True),
    Case(
        "log_wright_bessel",
        "x",
        lambda a, b, x: log(wright_bessel(a, b, x)),
        [(0.0, 3.0), (0.5, 5.0), (0.1, 9.0)],
        second=True,
    ),
]
