"""Compiled loops by their names in programs (see _host/names.py): which name each has, and back.

A loop whose source can be imported is named by it and by its types, one of a C function by where
that is in which library:

    {"loop": "scipy.special:jv", "types": "dd->d"}
    {"symbol": "cbrt", "library": "libm.so.6", "types": "d->d"}

Nothing is looked up in a library. A C function is found if this process has wrapped it itself, with
the same signature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from callbax import _native
from callbax._host import names, offers, program_names, trust

_finders: list[Callable[[Any, str], Any]] = []


def _enter(name: str, loop: Any) -> Any:
    function, data = loop.source.address()
    return _native.register_loop(
        name,
        loop,
        function,
        data,
        [_native.dtype_code(dtype.name) for dtype in loop.operands],
        [_native.dtype_code(dtype.name) for dtype in loop.results],
        loop.core,
        loop.may_raise,
    )


def _stable(loop: Any) -> dict[str, Any] | None:
    name = loop.source.program_name
    return None if name is None else {**name, "types": loop.types}


def _is_same(holder: Any, loop: Any) -> bool:
    """Programs say themselves whether a loop may be split over threads."""
    return bool(holder == dataclasses.replace(loop, parallel=holder.parallel))


def _remedy(loop: Any) -> str:
    return (
        "Take a ufunc or a Numba @cfunc from the top level of a module that can be imported, and a C "
        "function from a shared library or a Cython module; one with user_data stays in its process."
    )


def add_finder(find: Callable[[Any, str], Any]) -> None:
    """Adds a way to find loops in another process.

    Args:
      find: called with the object that is named and the types of the loop; returns the Loop, or None
        if the object is not of its kind.
    """
    _finders.append(find)


def _find(name: dict[str, Any]) -> Any:
    path, types = (program_names.string(name, key) for key in ("loop", "types"))
    found = trust.find(path)
    for find in _finders:
        loop = find(found, types)
        if loop is not None:
            return loop
    raise LookupError(
        f"{path}, which has no compiled loop {types} here; its version may be another."
    )


def offer_c_function(loop: Any) -> offers.Offer | None:
    """Lets programs name the loop of a C function that this process wraps, while the offer lives."""
    name = _stable(loop)
    if name is None or "symbol" not in name:
        return None
    return offers.Offer(_key(name), dataclasses.replace(loop, parallel=True))


def _key(name: dict[str, Any]) -> tuple[str, ...]:
    return tuple(program_names.string(name, key) for key in ("symbol", "library", "types"))


def _find_c_function(name: dict[str, Any]) -> Any:
    symbol, library, types = key = _key(name)
    missing = (
        "which this process has not let in. Import the module that wraps it with callbax.native, or "
        "wrap it, with this signature; and keep what that returns."
    )
    return offers.find(key, f"the C function {symbol} ({types}) of {library}", missing)


LOOPS = names.Kind(
    enter=_enter,
    stable=_stable,
    is_same=_is_same,
    label=str,
    describe=str,
    remedy=_remedy,
)
LOOPS.add_finder("loop", _find)
LOOPS.add_finder("symbol", _find_c_function)
