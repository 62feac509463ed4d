"""What the runtime calls for one of JAX's callbacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from callbax._callbacks.debug import ResultIgnored
from callbax._callbacks.printing import Printer, as_shown
from callbax._host.adapters import WithArrays
from callbax._host.call import HostCall
from callbax._host.function import Hashable
from callbax._host.structure import Structure
from callbax._jax.jax_callbacks import JaxCall, Print
from callbax._runtime.errors import describe_function
from callbax._runtime.wrapper import Wrapper


def host_call(call: JaxCall, arrays: int, *, as_jax: bool, is_debug: bool) -> HostCall:
    """The HostCall that does what JAX's call does.

    Args:
      arrays: how many it gets.
      as_jax: it gets them as jax Arrays, as from JAX; else as NumPy arrays.
      is_debug: what it returns is ignored.
    """
    if as_jax or call.function is None:
        flat = Structure(jax.tree.structure(((0,) * arrays, {})))
        return HostCall.of(
            _WithJaxArrays(Hashable(call.flat), call=call) if as_jax else call.flat, flat
        )
    return HostCall.of(_numpy_function(call, is_debug=is_debug), _structure(call))


def eager_function(call: JaxCall) -> Callable[..., Any]:
    """What an eager debug callback calls with NumPy arrays, one by one."""
    if not isinstance(call.function, Print):
        return call.flat
    printer = _printer(call.function)
    structure = _structure(call)

    def print_flat(*values: Any) -> None:
        args, kwargs = structure.unflatten(values)
        printer(*args, **kwargs)

    return print_flat


def _structure(call: JaxCall) -> Structure:
    return Structure(call.tree, tuple((i, Hashable(leaf)) for i, leaf in call.static))


def _numpy_function(call: JaxCall, *, is_debug: bool) -> Callable[..., Any]:
    """The user's function, as it is called with NumPy arrays in the tree of its arguments."""
    function = call.function
    if isinstance(function, Print):
        return _printer(function)
    assert function is not None
    return ResultIgnored(function) if is_debug else function


def _printer(text: Print) -> Callable[..., Any]:
    printer = Printer(text.fmt, tuple(sorted(text.options, key=lambda item: item[0])))
    if text.record is None and printer.has_fields == text.has_fields:
        return printer
    return _Shown(text)


@dataclasses.dataclass(frozen=True)
class _Shown(Wrapper):
    """JAX's own printing, of NumPy arrays: it logs, or takes for plain text what has late fields."""

    text: Print

    @property
    def description(self) -> str:
        return f"print({self.text.fmt!r})"

    def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        args, kwargs = jax.tree.map(as_shown, (args, kwargs))
        self.text.show(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class _WithJaxArrays(WithArrays):
    """JAX's callable for the flat arguments of a call, which gets them as jax Arrays."""

    call: JaxCall = dataclasses.field(compare=False, kw_only=True)

    @property
    def description(self) -> str:
        function = self.call.function
        if isinstance(function, Print):
            return f"print({function.fmt!r})"
        return describe_function(self.call.flat if function is None else function)

    @property
    def program_name(self) -> None:
        return None
