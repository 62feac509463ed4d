"""Callbacks by their names in programs (see _host/names.py): which name each has, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from callbax import _native
from callbax._host import names, program_names, trust
from callbax._host.call import HostCall
from callbax._host.function import find_named
from callbax._runtime.errors import attribute, describe_function
from callbax._runtime.exceptions import is_a
from callbax._runtime.wrapper import Wrapper


def add_kind(key: str, find: Callable[[dict[str, Any]], Any]) -> None:
    """Adds a kind of stable names of callbacks.

    Args:
      key: the key that names of this kind have, and no others.
      find: called with the name; returns the host function, or raises a LookupError.
    """

    def call(name: dict[str, Any]) -> HostCall:
        return HostCall.from_structure(find(name), name.get("structure"), name.get("result"))

    CALLBACKS.add_finder(key, call)


def _enter(name: str, call: HostCall) -> Any:
    # What a living program of this process calls, programs may name.
    object.__setattr__(call, "opt_in", trust.OptIn(trust.host_function(call.function)))
    function: Any = call.function
    code = function.code if is_a(function, Wrapper) else (0, 0)
    return _native.register_callback(name, call, *call.direct(), code)


def _stable(call: HostCall) -> dict[str, Any] | None:
    structure = call.structure_data
    if call.structure.static or structure is None:
        return None
    if call.name is not None:
        return {"named": call.name, **structure}
    own = _own_name(call.function)
    if own is not None:
        return {**own, **structure}
    path = trust.import_path(call.function)
    return None if path is None or trust.is_of_main(path) else {"function": path, **structure}


def _own_name(function: Any) -> dict[str, Any] | None:
    """The name that one of callbax's own callables gives itself."""
    return function.program_name if is_a(function, Wrapper) else None


def _is_same(holder: HostCall, call: HostCall) -> bool:
    """Whether the functions are one. Ours are, if their content is equal."""
    function, other = holder.function, call.function
    return function is other or (_own_name(function) is not None and function == other)


def _label(call: HostCall) -> str:
    function = trust.host_function(call.function)
    name = attribute(function, "__qualname__") or attribute(function, "__name__")
    return name if isinstance(name, str) else type(function).__qualname__


def find_function(name: dict[str, Any], kind: str = "function") -> Any:
    """The function whose path is in the name, if programs may call it.

    Raises:
      LookupError: they may not, or there is none.
    """
    path = program_names.string(name, kind)
    function = trust.find(path)
    if not callable(function):
        raise LookupError(f"{path}, which is not a function but of type {type(function).__name__}.")
    return function


def _find_named(name: dict[str, Any]) -> Any:
    given = program_names.string(name, "named")
    named = find_named(given)
    if named is None:
        raise LookupError(
            f"{given!r}, but no function of this process was given that name. Import the module that "
            "makes it with callbax.external(name=...), and keep the function that it makes."
        )
    return named.function


CALLBACKS = names.Kind(
    enter=_enter,
    stable=_stable,
    is_same=_is_same,
    label=_label,
    describe=lambda call: describe_function(call.function),
)
add_kind("function", find_function)
add_kind("named", _find_named)
