"""Names of callbacks in compiled programs.

A function has the name that it was given, or else, if it can be imported, its module and qualified
name, followed by the structure of its arguments: the program text is then the same in every process,
and another process can find the function. Any other gets a random name of this process, that nobody
else can have.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import uuid
from typing import Any

import numpy as np

from callbax import _errors, _native, _threads
from callbax._host_call import HostCall
from callbax._host_function import find_named

_lock = _threads.new_lock()
_process = uuid.uuid4().hex
_numbers = itertools.count()


def register(call: HostCall) -> Any:
    """Enters the call in the runtime's registry.

    Returns the registration, which has the name, and must live until the program is compiled. Equal
    calls share a trace and thus a HostCall, so they get the same name; but functions that are merely
    equal are told apart.
    """
    with _lock:
        stable = _stable_name(call)
        if stable is not None:
            # A name may still be held by a function that was redefined since (a notebook's cell).
            holder: Any = _native.lookup(stable)
            if holder is None or _is_same(holder.function, call.function):
                return _enter(stable, call)
        name = call.unique_name or f"#{_process}-{next(_numbers)}"
        object.__setattr__(call, "unique_name", name)  # it is frozen for everybody else
        return _enter(name, call)


def _is_same(function: Any, other: Any) -> bool:
    """Whether two functions of one stable name are one. Ours are, if their content is equal."""
    return function is other or (_own_name(function) is not None and function == other)


def resolve(name: str) -> Any:
    """Registers the function that a stable name stands for (called by the runtime).

    That is a living one that was given the name, or one that can be imported.
    """
    path, bracket, structure = name.partition("(")
    if not bracket:
        raise LookupError(f"{name!r} is not a stable name")
    function: Any
    if ":" in path:
        function = imported(path)
    else:
        named = find_named(path)
        if named is None:
            raise LookupError(f"no living function was given the name {path!r}")
        function = named.function
    with _lock:
        return _enter(name, HostCall.from_text(function, bracket + structure))


def _enter(name: str, call: HostCall) -> Any:
    # A compiled kernel says where its code and its data are; the runtime then calls it itself.
    is_kernel = isinstance(getattr(type(call.function), "callbax_kernel", None), property)
    kernel: Any = call.function.callbax_kernel if is_kernel else (0, 0)  # type: ignore[attr-defined]
    return _native.register(name, call, *call.direct(), kernel)


def _stable_name(call: HostCall) -> str | None:
    path = call.name or _own_name(call.function) or import_path(call.function)
    if path is None or call.static or call.tree_text is None:
        return None
    return path + call.tree_text


def _own_name(function: Any) -> str | None:
    """The name that one of callbax's own callables gives itself."""
    if isinstance(getattr(type(function), "callbax_name", None), property):
        return function.callbax_name
    return None


def _host_function(value: Any) -> Any:
    """The function itself, or the host function of a callable of callbax's own that wraps it."""
    if isinstance(getattr(type(value), "callbax_host_function", None), property):
        return value.callbax_host_function
    return value


def import_path(function: Any) -> str | None:
    """'module:qualname' if importing that gives this very object, or its wrapper of callbax's."""
    qualname = _errors.attribute(function, "__qualname__") or _errors.attribute(
        function, "__name__"
    )
    if not isinstance(qualname, str):
        return None
    modules = [_errors.attribute(function, "__module__")]
    if isinstance(function, np.ufunc):  # most do not know their module
        modules += _UFUNC_MODULES
    wrapped = _errors.attribute(function, "__wrapped__")
    if wrapped is not None:  # Numba's @cfunc gives its own module
        modules.append(_errors.attribute(wrapped, "__module__"))
    for module in modules:
        if isinstance(module, str) and _host_function(_look_up(module, qualname)) is function:
            return f"{module}:{qualname}"
    return None


def imported(path: str) -> Any:
    """The function that has that `import_path`; its module is imported if need be."""
    module, _, qualname = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return _host_function(found)


_UFUNC_MODULES = ("numpy", "scipy.special", "numpy.linalg._umath_linalg")


def _look_up(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
