"""Names of compiled loops in programs (see _names.py), and how another process finds the loops.

A loop whose source can be imported is named by it and by its types:

    {"loop": "scipy.special:jv", "types": "dd->d"}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from callbax import _names, _native, _program_names, _trust

_finders: list[Callable[[Any, str], Any]] = []


def register(loop: Any, *, exporting: bool) -> Any:
    """Enters the loop in the runtime's registry, see `_names.Names.register`."""
    return _loops.register(loop, exporting=exporting)


def _enter(name: str, loop: Any) -> Any:
    function, data = loop.source.address()
    return _native.register_loop(
        name,
        function,
        data,
        [_native.dtype_code(dtype.name) for dtype in loop.operands],
        [_native.dtype_code(dtype.name) for dtype in loop.results],
        loop.core,
        loop.may_raise,
        loop,
    )


def _stable(loop: Any) -> dict[str, Any] | None:
    path = loop.source.path
    if path is None or _trust.is_of_main(path):
        return None
    return {"loop": path, "types": loop.types}


_loops = _names.Names(
    enter=_enter,
    lookup=_native.lookup_loop,
    stable=_stable,
    is_same=lambda holder, loop: holder == loop,
    label=str,
    describe=str,
)


def add_finder(find: Callable[[Any, str], Any]) -> None:
    """Adds a way to find loops in another process.

    Args:
      find: called with the object that is named and the types of the loop; returns the Loop, or None
        if the object is none of its kind.
    """
    _finders.append(find)


def resolve(text: str) -> Any:
    """Registers the loop that a stable name stands for (called by the runtime).

    Returns the registration, or text that says why there is none.
    """
    try:
        name = _program_names.read(text)
        if (why := _names.local_only(name)) is not None:
            return why
        path, types = (_program_names.string(name, key) for key in ("loop", "types"))
        found = _trust.find(path)
    except LookupError as error:
        return str(error)
    for find in _finders:
        loop = find(found, types)
        if loop is not None:
            return _enter(text, loop)
    return f"{path}, which has no compiled loop {types} here; its version may be another."
