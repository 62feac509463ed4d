"""How programs name compiled C functions: by the path of their object, or by library and symbol."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

from callbax._compiled import c_functions
from callbax._compiled.c_functions import CFunction
from callbax._host import trust


def of_object(item: Any, function: CFunction) -> dict[str, str] | None:
    """The name of the function that `item` is, if it has one."""
    path = _import_path(item)
    if path is None or trust.is_of_main(path):
        return of_symbol(function)
    return {"loop": path}


def of_symbol(function: CFunction) -> dict[str, str] | None:
    """Its symbol, and the name of the library's file, wherever that lies."""
    if not function.library or not function.symbol:
        return None
    return {"symbol": function.symbol, "library": os.path.basename(function.library)}


def _import_path(item: Any) -> str | None:
    """'module:name' by which another process finds a function that says its own signature.

    That is a Numba `@cfunc` at the top level of a module, or a capsule of a Cython module.
    """
    if c_functions.is_numba(item):
        return trust.import_path(item)
    if not c_functions.is_capsule(item):
        return None
    for name, module in list(sys.modules.items()):
        exported = (
            vars(module).get("__pyx_capi__") if isinstance(module, types.ModuleType) else None
        )
        for key, capsule in exported.items() if isinstance(exported, dict) else ():
            if capsule is item:
                return f"{name}:__pyx_capi__.{key}"
    return None
