"""Compiled functions in the wrappings that Python libraries give them: ctypes, cffi, Numba, SciPy,
Cython, plain capsules and addresses.

Each reader looks at one kind of object, without importing the library that it comes from.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from callbax import _native
from callbax._compiled.c_signature import CSignature, parse
from callbax._runtime.errors import attribute

ACCEPTED = (
    "a function of ctypes or cffi, a Numba @cfunc, a scipy.LowLevelCallable, a capsule of a Cython "
    "module's __pyx_capi__ or another PyCapsule that holds a function pointer, or an address (int)"
)


_ADDRESSES = 1 << 8 * ctypes.sizeof(ctypes.c_void_p)


@dataclasses.dataclass(frozen=True)
class CFunction:
    """A compiled function.

    Attributes:
      address: of its code.
      signature: what its object says; None if it says nothing, or if it cannot be believed.
      unsaid: what it does not say, for messages.
      short_name: the function's, as far as it is known.
      owner: what must live as long as the function is called.
      user_data: the address that the object itself brings along, or 0.
      library: the file that holds the code, if any.
      symbol: its name in that file, if it is known.
    """

    address: int
    signature: CSignature | None
    short_name: str
    owner: Any = dataclasses.field(compare=False, repr=False)
    user_data: int = 0
    library: str = ""
    symbol: str = ""
    unsaid: str = dataclasses.field(default="what its signature is", compare=False)

    @property
    def needs_alive(self) -> Any:
        """What the address depends on. The code of a library stays, as `keep_library` says."""
        return None if self.library and not self.user_data else self.owner

    def __str__(self) -> str:
        """For messages."""
        name = self.symbol or f"function at {self.address:#x}"
        return f"{name} ({self.library})" if self.library else name


def read(item: Any) -> CFunction:
    """The function that `item` is. Its shared library stays loaded from now on.

    Raises:
      TypeError: `item` is nothing of the kind.
      ValueError: it is a null pointer.
    """
    function = _read(item)
    if function.address == 0:
        raise ValueError(f"{item!r} is a null pointer, not a compiled function")
    if not 0 < function.address < _ADDRESSES:
        raise ValueError(f"{item!r} is not an address")
    name, library = _native.keep_library(function.address)
    symbol = function.short_name or name
    # It becomes a part of programs: an address would make these others in each process.
    name = symbol or "c_function"
    return dataclasses.replace(function, short_name=name, library=library, symbol=symbol)


def _read(item: Any) -> CFunction:
    for is_kind, read in _READERS:
        if is_kind(item):
            return read(item)
    hint = ""
    if type(item).__name__ == "builtin_function_or_method" and _module(
        type(attribute(item, "__self__"))
    ).startswith("_cffi_backend"):
        hint = "; for a function of a compiled cffi module write ffi.addressof(lib, 'name')"
    elif _module(type(item)).startswith("numba."):
        hint = "; of Numba's functions, those made by @numba.cfunc have a C signature"
    elif isinstance(item, np.ufunc):
        hint = "; for ufuncs there is callbax.ufunc"
    elif callable(item):
        hint = "; a Python function is called with callbax.external"
    raise TypeError(f"callbax.native takes {ACCEPTED}, but got {item!r} of type {type(item)}{hint}")


def _module(kind: type) -> str:
    return str(attribute(kind, "__module__"))


# -- ctypes ----------------------------------------------------------------------------------------


_NEEDS_GIL = 4  # in ctypes' flags of a function: FUNCFLAG_PYTHONAPI
_CtypesFunction: Any = ctypes.CFUNCTYPE(None).__base__  # the base of all; it has no public name


def _is_ctypes(item: Any) -> bool:
    return isinstance(item, _CtypesFunction)


def _read_ctypes(item: Any) -> CFunction:
    if any(type(part).__name__ == "CThunkObject" for part in (item._objects or {}).values()):
        raise TypeError(
            f"{item!r} is a Python function that ctypes wraps for C: each call of it takes the GIL. "
            "Give the function itself to callbax.pure_callback or callbax.external."
        )
    if item._flags_ & _NEEDS_GIL:
        raise TypeError(
            f"{item!r} is a function of Python's C API (a ctypes.PyDLL or PYFUNCTYPE), which must be "
            "called with the GIL held. Call it in a function for callbax.external."
        )
    address = ctypes.cast(item, ctypes.c_void_p).value or 0
    function = CFunction(address, None, attribute(item, "__name__") or "", item)
    if item.argtypes is None:
        return function
    if not _says_restype(item):
        return dataclasses.replace(function, unsaid=_NO_RESTYPE)
    names = ", ".join(map(_ctypes_name, item.argtypes))
    return dataclasses.replace(function, signature=parse(f"{_ctypes_name(item.restype)} ({names})"))


_NO_RESTYPE = "what it returns (ctypes takes it for an int; set its restype, too)"


def _says_restype(item: Any) -> bool:
    """Whether somebody has said what it returns. If not, its restype reads as int, a wrong guess for
    most functions; one that was set is an object that it refers to, or stands in its prototype."""
    is_prototype = hasattr(type(item), "_argtypes_")
    return (
        is_prototype
        or item.restype is not ctypes.c_int
        or any(part is ctypes.c_int for part in gc.get_referents(item))
    )


def _ctypes_name(kind: Any) -> str:
    if kind is None:
        return "void"
    if kind is ctypes.c_void_p:
        return "void*"
    if hasattr(kind, "contents"):  # a pointer type
        return f"{_ctypes_name(kind._type_)}*"
    return str(kind.__name__).removeprefix("c_")


# -- cffi ------------------------------------------------------------------------------------------


def _cffi() -> Any:
    """cffi's core, if this process uses it."""
    return sys.modules.get("_cffi_backend")


def _is_cffi(item: Any) -> bool:
    return _cffi() is not None and isinstance(item, _cffi()._CDataBase)


def _read_cffi(item: Any) -> CFunction:
    kind = _cffi().typeof(item)
    if kind.kind == "pointer" and kind.item.kind == "void":
        return CFunction(_cffi_address(item), None, "", item)
    if kind.kind != "function":
        raise TypeError(
            f"callbax.native takes {ACCEPTED}, but got {item!r}, which is not a function"
        )
    names = ", ".join([*(argument.cname for argument in kind.args), *["..."] * kind.ellipsis])
    return CFunction(_cffi_address(item), parse(f"{kind.result.cname} ({names})"), "", item)


def _cffi_address(item: Any) -> int:
    return int(_cffi().cast(_cffi().new_primitive_type("uintptr_t"), item))


# -- Numba -----------------------------------------------------------------------------------------


def is_numba(item: Any) -> bool:
    return _module(type(item)) == "numba.core.ccallback" and hasattr(item, "address")


def _read_numba(item: Any) -> CFunction:
    signature = parse(f"{item._sig.return_type} ({', '.join(map(str, item._sig.args))})")
    if "complex64" in (signature.result, *signature.arguments):
        raise TypeError(
            f"Numba does not pass complex64 as C does, so {item!r} cannot be called by its C "
            "signature; use complex128"
        )
    return CFunction(item.address, signature, item.__name__, item)


# -- capsules, SciPy's and others --------------------------------------------------------------------

_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_get_context = ctypes.pythonapi.PyCapsule_GetContext
_get_context.restype, _get_context.argtypes = ctypes.c_void_p, [ctypes.py_object]


def is_capsule(item: Any) -> bool:
    return type(item).__name__ == "PyCapsule" and _module(type(item)) == "builtins"


def _read_capsule(item: Any) -> CFunction:
    name = _get_name(item)
    text = (name or b"").decode("utf-8", "replace")
    signature = parse(text) if "(" in text else None
    # By SciPy's convention for LowLevelCallable, the capsule's context is the user data.
    data = _get_context(item) or 0
    return CFunction(_get_pointer(item, name) or 0, signature, "", item, data)


def _is_low_level_callable(item: Any) -> bool:
    return type(item).__name__ == "LowLevelCallable" and _module(type(item)).startswith("scipy.")


def _read_low_level_callable(item: Any) -> CFunction:
    inner = _read(item.function)
    signature = parse(item.signature) if item.signature else inner.signature
    data = inner.user_data if item.user_data is None else address_of_data(item.user_data)
    return dataclasses.replace(inner, signature=signature, owner=item, user_data=data)


# -- addresses -------------------------------------------------------------------------------------


def _is_address(item: Any) -> bool:
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def _read_address(item: Any) -> CFunction:
    return CFunction(int(item), None, "", None)


_READERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], CFunction]], ...] = (
    (_is_ctypes, _read_ctypes),
    (_is_cffi, _read_cffi),
    (is_numba, _read_numba),
    (_is_low_level_callable, _read_low_level_callable),
    (is_capsule, _read_capsule),
    (_is_address, _read_address),
)


def address_of_data(item: Any) -> int:
    """The pointer that a C function gets for `user_data=item`; None is NULL.

    A pointer (of ctypes or cffi), a capsule and an int are passed as they are. Of a NumPy array and of
    a ctypes structure, array or number, the address of its memory is passed.

    Raises:
      TypeError: `item` is nothing of the kind.
      ValueError: an array that is not contiguous; a number that is not an address.
    """
    if item is None:
        return 0
    if isinstance(item, np.ndarray):
        if not item.flags.c_contiguous or item.dtype.hasobject:
            raise ValueError(
                "an array as user_data must be C-contiguous and hold no Python objects"
            )
        return int(item.ctypes.data)
    if isinstance(item, (ctypes.c_void_p, ctypes._Pointer, _CtypesFunction)):
        return ctypes.cast(item, ctypes.c_void_p).value or 0
    if isinstance(item, (ctypes.Structure, ctypes.Union, ctypes.Array, ctypes._SimpleCData)):
        return ctypes.addressof(item)
    if _is_cffi(item):
        return _cffi_address(item)
    if is_capsule(item):
        return _get_pointer(item, _get_name(item)) or 0
    if _is_address(item):
        if not 0 <= item < _ADDRESSES:
            raise ValueError(f"user_data={item!r} is not an address")
        return int(item)
    raise TypeError(
        "user_data must be a NumPy array, a ctypes object, a cffi pointer, a PyCapsule or an address "
        f"(int), but got {item!r} of type {type(item)}"
    )
