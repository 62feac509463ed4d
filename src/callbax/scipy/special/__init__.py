"""Every ufunc of `scipy.special` as a differentiable JAX function, by the same name.

A function is what `callbax.ufunc` makes of SciPy's: SciPy's own compiled loop runs, so that values
are equal to SciPy's bit for bit, and it works in and outside of `jit`, `vmap`, `scan` and the like.
(Where SciPy's loop for float32 is known to fail, the values are those of its loop for float64: for
Mathieu functions, spheroidal wave functions, `pbdv` and `pbvv`.)
What callbax adds are the derivatives. They are kept in a catalogue, one rule for each argument, and
are made of functions of the same catalogue, so that they can be differentiated again.

Some arguments have no closed form of a derivative (the order of a Bessel function) or no derivative
at all (a number of trials). Differentiating with respect to one raises an error that gives the
reason. docs/scipy_special_table.md lists them all.

`lambertw`, `polygamma` and `zeta`, which are Python around ufuncs, are here too.

The functions are those of the installed SciPy, 1.14 or later: one that SciPy adds is here at once,
without derivatives. Each is built when it is first used.

Example:
  >>> import callbax as cb, jax
  >>> slope = jax.grad(cb.scipy.special.gammaln)(2.5)
  >>> bool(slope == cb.scipy.special.digamma(2.5))
  True
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from callbax.scipy.special._functions import WRAPPERS, build

    if name in WRAPPERS:
        found = getattr(importlib.import_module("callbax.scipy.special._wrappers"), name)
    else:
        found = build(name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    from callbax.scipy.special._functions import WRAPPERS, public_names

    return sorted({*public_names(), *WRAPPERS})
