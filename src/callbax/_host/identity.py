"""Callbacks by their names in programs (see _host/names.py): which name each has, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from callbax import _native
from callbax._host import libraries, names, program_names, trust
from callbax._host.adapters import ResultOnly, WithArrays
from callbax._host.call import HostCall
from callbax._host.function import Hashable, find_named
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
        return HostCall.from_structure(find(name), name)

    CALLBACKS.add_finder(key, call)


def _enter(name: str, call: HostCall) -> Any:
    # What a living program of this process calls, programs may name.
    object.__setattr__(call, "opt_in", trust.OptIn(trust.host_function(call.function)))
    function: Any = call.function
    code = function.code if is_a(function, Wrapper) else (0, 0)
    return _native.register_callback(name, call, *call.direct(), code)


def stable_name(call: HostCall) -> dict[str, Any] | None:
    """The name of a call, equal in each process, if it has one."""
    function: Any = call.function
    if is_a(function, Wrapper) and call.name is None:
        name = function.program_name
    else:
        name = reference(function, call.name)
    if name is None:
        return None
    structure = call.structure_data
    return None if structure is None else {**name, **structure}


def find_call(name: dict[str, Any]) -> HostCall:
    """The call of that `stable_name`.

    Raises:
      LookupError: there is none, or programs may not make it.
    """
    kind, call = names.find(name)
    if kind is not CALLBACKS:
        raise LookupError(f"{program_names.write(name)[:200]} is not the name of a callback")
    return cast(HostCall, call)


def reference(function: Any, given: str | None = None) -> dict[str, Any] | None:
    """How programs name a user's function: by the name that it was given, or by its path.

    None if it has neither, as the functions of the main script: that is another in each process.
    """
    if given is not None:
        return {"named": given}
    path = trust.stable_path(function)
    return None if path is None else {"function": path}


def referred(name: dict[str, Any]) -> Any:
    """The user's function that a `reference` means.

    Raises:
      LookupError: there is none, or programs may not name it.
    """
    function = _find_named(name) if "named" in name else find_function(name)
    return trust.host_function(function)


def _is_same(holder: HostCall, call: HostCall) -> bool:
    """Whether two calls of one name call the same. What else is in the name is equal."""
    function: Any = holder.function
    other: Any = call.function
    if is_a(function, Wrapper) and type(function) is type(other):
        return bool(function.calls_same_as(other))
    return function is other


def _label(call: HostCall) -> str:
    function = trust.host_function(call.function)
    name = attribute(function, "__qualname__") or attribute(function, "__name__")
    return name if isinstance(name, str) else type(function).__qualname__


def _remedy(call: HostCall) -> str:
    static = [type(leaf.value).__name__ for _, leaf in call.structure.static]
    if call.structure_data is not None:
        return (
            "Define the function with `def` at the top level of a module that can be imported, or give "
            "it a name with callbax.external(name=...)."
        )
    if static:
        return (
            f"Arguments that are not arrays (here {', '.join(static)}) have no place in a name: call "
            "a function that does without them."
        )
    return "Give it its arrays in tuples, lists and dicts, and not in types of your own."


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


def _find_result_only(name: dict[str, Any]) -> ResultOnly:
    owner = name["result_of"]
    if not isinstance(owner, dict):
        raise LookupError(f"{program_names.write(name)[:200]} is not the name of a function")
    return ResultOnly(Hashable(referred(owner)), owner.get("named"))


def _find_with_arrays(name: dict[str, Any]) -> WithArrays:
    owner: Any = name.get("of")
    library = program_names.string(name, "arrays")
    if not isinstance(owner, dict) or library not in libraries.NAMES:
        raise LookupError(f"{program_names.write(name)[:200]} is not the name of a function")
    of_call: dict[str, Any] = {
        key: name[key] for key in ("structure", "texts", "result") if key in name
    }
    function = find_call({**owner, **of_call}).function
    on_device, out = (program_names.flag(name, key) for key in ("on_device", "out"))
    return WithArrays(Hashable(function), library, on_device, out)


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
    stable=stable_name,
    is_same=_is_same,
    label=_label,
    describe=lambda call: describe_function(call.function),
    remedy=_remedy,
)
add_kind("function", find_function)
add_kind("named", _find_named)
add_kind("arrays", _find_with_arrays)
add_kind("result_of", _find_result_only)
