"""Names of callbacks in compiled programs.

A function that can be imported is named by module and qualified name, with the structure of its
arguments: the program text is then the same in every process, and another process can find the
function. Any other gets a random name of this process, that nobody else can have.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import sys
import threading
import uuid
import weakref
from typing import Any

import jax
import numpy as np

from callbax import _native
from callbax._host_call import ByIdentity, HostCall

_lock = threading.Lock()
_process = uuid.uuid4().hex
_numbers = itertools.count()
_unique_names: weakref.WeakKeyDictionary[HostCall, str] = weakref.WeakKeyDictionary()


def register(call: HostCall) -> Any:
    """Enters the call in the runtime's registry.

    Returns the registration, which has the name, and must live until the program is compiled. Equal
    calls get the same name while one of them lives.
    """
    with _lock:
        stable = _stable_name(call)
        # A name may still be held by a function that was redefined since (a notebook's cell).
        if stable is not None and _native.lookup(stable) in (None, call):
            return _enter(stable, call)
        name = _unique_names.get(call)
        if name is None:
            name = f"#{_process}-{next(_numbers)}"
            _unique_names[call] = name
        return _enter(name, call)


def resolve(name: str) -> Any:
    """Registers the importable function that a stable name stands for (called by the runtime)."""
    path, bracket, arguments = name.partition("(")
    module, colon, qualname = path.partition(":")
    if not (bracket and colon):
        raise LookupError(f"{name!r} is not the name of an importable function")
    function: Any = importlib.import_module(module)
    for part in qualname.split("."):
        function = getattr(function, part)
    tree = jax.tree.structure(ast.literal_eval(bracket + arguments))
    with _lock:
        return _enter(name, HostCall(ByIdentity(function), tree))


def _enter(name: str, call: HostCall) -> Any:
    return _native.register(name, call, *call.direct())


def _stable_name(call: HostCall) -> str | None:
    own_name = getattr(call.function, "callbax_name", None)
    path = own_name if isinstance(own_name, str) else _import_path(call.function)
    if path is None or call.static:
        return None
    arguments = jax.tree.unflatten(call.tree, [0] * call.tree.num_leaves)
    text = repr(arguments)
    try:
        faithful = jax.tree.structure(ast.literal_eval(text)) == call.tree
    except (ValueError, SyntaxError, TypeError):
        return None  # the tree has nodes of other types than tuple, list, dict and None
    return path + text if faithful else None


def _import_path(function: Any) -> str | None:
    """'module:qualname' if importing that gives this very object."""
    qualname = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if not isinstance(qualname, str):
        return None
    # Most ufuncs do not know their module.
    own_module = getattr(function, "__module__", None)
    for module in (
        (own_module, *_UFUNC_MODULES) if isinstance(function, np.ufunc) else (own_module,)
    ):
        if isinstance(module, str) and _look_up(module, qualname) is function:
            return f"{module}:{qualname}"
    return None


_UFUNC_MODULES = ("numpy", "scipy.special")


def _look_up(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
