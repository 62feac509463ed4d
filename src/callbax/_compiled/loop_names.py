"""Compiled loops by their names in programs (see _host/names.py): which name each has, and back.

A loop whose source can be imported is named by it and by its types:

    {"loop": "scipy.special:jv", "types": "dd->d"}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from callbax import _native
from callbax._host import names, program_names, trust

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
    path = loop.source.path
    if path is None or trust.is_of_main(path):
        return None
    return {"loop": path, "types": loop.types}


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


LOOPS = names.Kind(
    enter=_enter,
    stable=_stable,
    is_same=lambda holder, loop: bool(holder == loop),
    label=str,
    describe=str,
)
LOOPS.add_finder("loop", _find)
