"""Which host code a program may name: the one place where a path becomes an object.

A program may come from a file, and a file is data. It calls what this process has opted in (what it
has lowered or wrapped itself), a ufunc of NumPy or SciPy that is imported already, or what `allow`
let in. Only `allow` lets a program import anything. What this process itself writes for its own
workers is trusted as the pickle is that carries it (`imported`).

Objects are found in the dictionaries of modules and classes. No attribute is asked for, so that no
code runs and nothing is reached that is merely attached to something.
"""

from __future__ import annotations

import importlib
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from callbax._host.offers import Offer, Offerable
from callbax._runtime import threads
from callbax._runtime.errors import attribute, describe_function
from callbax._runtime.exceptions import is_a
from callbax._runtime.wrapper import Wrapper

_lock = threads.new_lock(reentrant=True)  # a finaliser may run anywhere, and make an OptIn
_allowed: set[str] = set()  # guarded by _lock; paths, and "module:*"
_allowed_offers: list[Offer] = []  # guarded by _lock
_MAIN = ("__main__", "__mp_main__")  # multiprocessing's children have the script by another name


class OptIn:
    """Lets programs name a function, for as long as this object lives."""

    __slots__ = ("__weakref__", "function")

    def __init__(self, function: Any):
        self.function = function
        with _lock:
            _opted_in.add(self)

    def __reduce__(self) -> Any:
        return type(self), (self.function,)


_opted_in: weakref.WeakSet[OptIn] = weakref.WeakSet()  # guarded by _lock


def allow(*names: str | Callable[..., Any]) -> None:
    """Lets programs that this process loads (`jax.export.deserialize`) call host functions by name.

    A loaded program names its host functions by module and name. It may call those that this process
    has wrapped (`callbax.external`, `callbax.ufunc`, `callbax.native`, a given name), and NumPy's and
    SciPy's ufuncs. All others are let in here, once, and only for files that are trusted: they are
    called with whatever arguments the file has.

    Args:
      *names: "package.module:function", or "package.module:Class.function"; "package.module:*" for
        all functions and classes that this module itself defines at its top level, but nothing that
        it imports, and no submodule; or a function that has such a name. A module that is named
        here is imported when a program needs it. A kernel (`callbax.native(..., kernel=True)`) is let
        in itself, and only so: it must withstand arrays of any number, shapes and dtypes, which no
        kernel does by itself.

    Raises:
      ValueError: text of another form; a function that cannot be found by a name (a lambda, a method,
        one defined in a function), or one of the main script, which is another in each process.
      TypeError: neither text nor a function.

    >>> import callbax, math
    >>> callbax.allow("math:hypot", math.gcd)
    """
    kernels: list[Any] = [name for name in names if is_a(name, Offerable)]
    paths = [_path_to_allow(name) for name in names if not is_a(name, Offerable)]
    given = [kernel.offer() for kernel in kernels]
    with _lock:
        _allowed.update(paths)
        _allowed_offers.extend(given)


def _path_to_allow(name: Any) -> str:
    if isinstance(name, str):
        module, _, qualname = name.partition(":")
        if not _is_dotted(module) or not (qualname == "*" or _is_dotted(qualname)):
            raise ValueError(
                f'callbax.allow takes "package.module:function" or "package.module:*", but got '
                f"{name!r}; there are no other wildcards"
            )
        path: str | None = name
    elif callable(name):
        path = import_path(host_function(name))
        if path is None:
            raise ValueError(
                f"callbax.allow cannot let in {describe_function(name)}: programs find a function by "
                "its module and name, and this one cannot be found so. Define it with `def` at the "
                "top level of a module and call callbax.allow below it (it is no decorator), or give it "
                "a name with callbax.external(name=...)."
            )
    else:
        raise TypeError(
            f"callbax.allow takes functions and text such as 'package.module:function', but got "
            f"{name!r} of type {type(name).__name__}"
        )
    assert path is not None
    if is_of_main(path):
        raise ValueError(f"callbax.allow cannot let in {path!r}: {_WHY_NOT_MAIN}")
    return path


_WHY_NOT_MAIN = (
    "the main script is another in each process, so its functions cannot be found from another. "
    "Move the function to a module that both import, or give it a name in both with "
    "callbax.external(name=...)."
)


def is_of_main(path: str) -> bool:
    """Whether the path is that of something in the script that this process runs."""
    return path.partition(":")[0] in _MAIN


def stable_path(function: Any) -> str | None:
    """The path by which other processes find a function. The main script is another in each."""
    path = import_path(function)
    return None if path is None or is_of_main(path) else path


def find(path: str) -> Any:
    """What a path in a program means, if this process lets it in.

    Raises:
      LookupError: it does not, or there is no such thing; the message says what to write.
    """
    module, _, qualname = path.partition(":")
    if not _is_dotted(module) or not _is_dotted(qualname):
        raise LookupError(f"{path!r} is not the path of a function.")
    if module in _MAIN:
        raise LookupError(f"{path}: {_WHY_NOT_MAIN}")
    with _lock:
        by_name, by_module = path in _allowed, f"{module}:*" in _allowed
        opted_in = [item.function for item in _opted_in]
    if by_name or by_module:
        _import_allowed(path, module)
    elif module not in sys.modules:
        wrapped = "a ufunc" if _is_of_numpy(module) else "what it wraps with callbax.external"
        raise LookupError(
            f"{path}, but the module {module} is not imported in this process, and a program does not "
            f"import anything. Write `import {module}` before it runs; for {wrapped} that is enough. "
            f"{_what_to_write(path)}"
        )
    item = _look_up(module, qualname)
    if item is _MISSING:
        raise LookupError(f"{path}, but the module {module} here has no {qualname!r}.")
    found = host_function(item)
    if (
        by_name
        or (by_module and _is_defined_by(module, qualname, found))
        or any(found is function for function in opted_in)
        or (type(found) is np.ufunc and _is_of_numpy(module))
    ):
        return found
    raise LookupError(f"{path}, which this process has not let in. {_what_to_write(path)}")


def _what_to_write(path: str) -> str:
    return (
        f'If you trust the program to call it, write callbax.allow("{path}") before it runs. The author '
        "of a function lets it in by wrapping it with callbax.external, in a module that is imported."
    )


def _import_allowed(path: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise LookupError(
            f"{path}, which callbax.allow let in, but its module cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error


def _is_defined_by(module: str, qualname: str, found: Any) -> bool:
    return "." not in qualname and callable(found) and attribute(found, "__module__") == module


def _is_of_numpy(module: str) -> bool:
    return module.partition(".")[0] in ("numpy", "scipy")


def imported(path: str) -> Any:
    """The function of that `import_path`, in a process of this program; its module is imported.

    For what comes by pickle from the process that this one works for: whoever writes that may run
    code here anyway.
    """
    module, _, qualname = path.partition(":")
    importlib.import_module(module)
    found = _look_up(module, qualname)
    if found is _MISSING:
        raise LookupError(f"the module {module} has no {qualname!r}")
    return host_function(found)


def import_path(function: Any) -> str | None:
    """'module:qualname' if importing that gives this very object, or its wrapper of callbax's."""
    qualname = attribute(function, "__qualname__") or attribute(function, "__name__")
    if not isinstance(qualname, str) or not _is_dotted(qualname):
        return None
    modules = [attribute(function, "__module__")]
    if isinstance(function, np.ufunc):  # most do not know their module
        modules += _UFUNC_MODULES
    wrapped = attribute(function, "__wrapped__")
    if wrapped is not None:  # Numba's @cfunc gives its own module
        modules.append(attribute(wrapped, "__module__"))
    for module in modules:
        if isinstance(module, str) and host_function(_look_up(module, qualname)) is function:
            return f"{module}:{qualname}"
    return None


_UFUNC_MODULES = ("numpy", "scipy.special", "numpy.linalg._umath_linalg")


def host_function(value: Any) -> Any:
    """The function itself, or the host function of a callable of callbax's own that wraps it."""
    return value.host_function if is_a(value, Wrapper) else value


_MISSING: Any = object()


def _look_up(module: str, qualname: str) -> Any:
    """What a module that is imported has under that name, or _MISSING. Runs no code."""
    found = sys.modules.get(module)
    if not isinstance(found, types.ModuleType):
        return _MISSING
    # Not vars(found): a module that is loaded lazily would be loaded.
    names: Any = object.__getattribute__(found, "__dict__")
    for part in qualname.split("."):
        if names is None or part not in names:
            return _MISSING
        member = names[part]
        names = _names_in(part, member)
    return member.__func__ if isinstance(member, staticmethod) else member


def _names_in(name: str, member: Any) -> Any:
    """What a qualified name may go through: classes, and the capsules of a Cython module."""
    if isinstance(member, type):
        return type.__dict__["__dict__"].__get__(member)
    return member if name == "__pyx_capi__" and type(member) is dict else None


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
