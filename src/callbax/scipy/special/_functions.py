"""Builds the functions of the package: SciPy's ufunc with the catalogue's derivatives."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from callbax._compiled import dtypes
from callbax._compiled.ufunc import Ufunc
from callbax._compiled.ufunc import ufunc as callbax_ufunc
from callbax.scipy.special._catalogue import (
    ClosedForm,
    Derivative,
    describe,
    entries,
    entry,
)

# What are Python functions in SciPy, and here.
WRAPPERS = ("lambertw", "polygamma", "zeta")


# SciPy's loops for float32 (as of 1.17) give NaN for these, or never return: they iterate until
# differences are smaller than a float can tell. Their values are those of the loops for float64.
FAILS_IN_SINGLE = ("mathieu_cem", "mathieu_sem", "mathieu_mod", "obl_", "pro_", "pbdv", "pbvv")


class _InDouble(Ufunc):
    """A ufunc that computes in double precision; the native code rounds float32 results."""

    def _resolve(self, args: Sequence[Any]) -> dtypes.Resolution:
        return dtypes.in_double(self.ufunc, super()._resolve(args))


@functools.cache
def public_names() -> tuple[str, ...]:
    """The ufuncs of the installed `scipy.special`."""
    import scipy.special

    return tuple(
        name
        for name in dir(scipy.special)
        if not name.startswith("_") and scipys_ufunc(name) is not None
    )


def build(name: str) -> Any:
    """The JAX function of this name.

    Raises:
      AttributeError: the installed SciPy has no such ufunc.
    """
    ufunc = scipys_ufunc(name)
    if ufunc is None:
        raise AttributeError(
            f"module 'callbax.scipy.special' has no attribute {name!r}: the installed SciPy has "
            f"no ufunc of that name"
        )
    known = entry(name, ufunc)
    function = callbax_ufunc(
        _InDouble(ufunc, (None,) * ufunc.nin) if name.startswith(FAILS_IN_SINGLE) else ufunc,
        derivatives=tuple(
            derivative.rule if isinstance(derivative, ClosedForm) else derivative
            for derivative in known.values()
        ),
    )
    function.__doc__ = _docstring(name, known)
    return function


def scipys_ufunc(name: str) -> Any:
    """SciPy's ufunc of this name, if it has one; a private one only if the catalogue uses it."""
    import scipy.special

    home = scipy.special
    if name.startswith("_"):
        if name not in entries():
            return None
        home = scipy.special._ufuncs
    found = getattr(home, name, None)
    return found if isinstance(found, np.ufunc) else None


def _docstring(name: str, known: Mapping[str, Derivative]) -> str:
    lines = [
        f"`scipy.special.{name}` as a JAX function; see there for what it computes.",
        "",
        "Derivatives:",
        *("  {}: {} ({})".format(argument, *describe(known[argument])) for argument in known),
    ]
    return "\n".join(lines)
