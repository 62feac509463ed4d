"""Names of compiled loops in programs, and their registration with the runtime.

A loop whose source can be imported is named by it and by its types, 'scipy.special:jv dd->d': the
program text is the same in every process, and another process can find the loop. Any other gets a
random name of this process.
"""

from __future__ import annotations

import importlib
import itertools
import uuid
from collections.abc import Callable
from typing import Any

from callbax import _native, _threads

_lock = _threads.new_lock()
_process = uuid.uuid4().hex
_numbers = itertools.count()
_finders: list[Callable[[Any, str], Any]] = []


def register(loop: Any) -> Any:
    """Enters the loop in the runtime's registry.

    Returns the registration, which has the name, and must live until the program is compiled.
    """
    with _lock:
        if loop.source.path is not None:
            name = f"{loop.source.path} {loop.types}"
            # A name may still be held by a function that was redefined since (a notebook's cell).
            holder: Any = _native.lookup_loop(name)
            if holder is None or holder == loop:
                return _enter(name, loop)
        name = loop.unique_name or f"#{_process}-{next(_numbers)} {loop.types}"
        object.__setattr__(loop, "unique_name", name)  # it is frozen for everybody else
        return _enter(name, loop)


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


def add_finder(find: Callable[[Any, str], Any]) -> None:
    """Adds a way to find loops in another process.

    Args:
      find: called with the imported object and the types of the loop; returns the Loop, or None if
        the object is none of its kind.
    """
    _finders.append(find)


def resolve(name: str) -> Any:
    """Registers the loop that a stable name stands for (called by the runtime)."""
    path, _, types = name.partition(" ")
    module, colon, qualname = path.partition(":")
    if not colon:
        raise LookupError(f"{name!r} is not the name of an importable function")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    for find in _finders:
        loop = find(found, types)
        if loop is not None:
            with _lock:
                return _enter(name, loop)
    raise LookupError(f"{path!r} has no compiled loop {types}")
