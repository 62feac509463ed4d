"""The gamma function and its kin."""

from callbax.scipy import special
from callbax.scipy.special._catalogue import NoClosedForm, NotDifferentiable, derivatives

derivatives(
    "gamma",
    source="DLMF 5.2.2",
    z=lambda z: special.gamma(z) * special.digamma(z),
)
derivatives("gammaln", source="DLMF 5.2.2", x=lambda x: special.digamma(x))
derivatives("gammasgn", x=NotDifferentiable("a sign"))

# The trigamma function is a Hurwitz zeta function, which has all the higher orders.
derivatives("digamma", "psi", source="DLMF 25.11.12", z=lambda z: special._zeta(2.0, z))
derivatives(
    "_zeta",
    source="DLMF 25.11.17",
    x=NoClosedForm("the exponent of a zeta function"),
    q=lambda x, q: -x * special._zeta(x + 1, q),
)
