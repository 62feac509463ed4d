"""Kelvin functions: DLMF section 10.61.

ber + i bei = J₀(w) with w = e^(3πi/4) x (10.61.1), and ker + i kei = K₀(w) with w = e^(πi/4) x
(10.61.2). The first derivatives are functions of SciPy; these are the second ones.
"""

from typing import Any

import jax.numpy as jnp

from callbax.scipy import special
from callbax.scipy.special._catalogue import derivatives
from callbax.scipy.special._numerics import known

TURN = (-1 + 1j) / 2**0.5


def _second_of_ber(x: Any) -> Any:
    """ber'' + i bei'' = (w')² J₀''(w); J₀'' = (J₂ - J₀)/2 by DLMF 10.6.1, and (w')² = -i.

    The differential equation gives -bei - ber'/x, which is singular at 0; this is not.
    """
    w = TURN * x
    return -0.5j * (special.jv(2.0, w) - special.jv(0.0, w))


derivatives("ber", source="the definition of berp", x=lambda x: special.berp(x))
derivatives("bei", source="the definition of beip", x=lambda x: special.beip(x))
derivatives("ker", source="the definition of kerp", x=lambda x: special.kerp(x))
derivatives("kei", source="the definition of keip", x=lambda x: special.keip(x))
derivatives("berp", source="DLMF 10.61.1", x=lambda x: jnp.real(_second_of_ber(x)))
derivatives("beip", source="DLMF 10.61.1", x=lambda x: jnp.imag(_second_of_ber(x)))

# x² w'' + x w' = i x² w (DLMF 10.61.3 with ν = 0).
derivatives("kerp", source="DLMF 10.61.3", x=lambda x: -special.kei(x) - special.kerp(x) / x)
derivatives("keip", source="DLMF 10.61.3", x=lambda x: special.ker(x) - special.keip(x) / x)


def _kelvin_derivative(x: Any) -> Any:
    _, ke, bep, kep = special.kelvin(x)
    return bep, known(kep), _second_of_ber(x), known(1j * ke - kep / x)


derivatives("kelvin", source="DLMF 10.61.3", x=_kelvin_derivative)
