"""The gateway's part for JAX's own callbacks: what a call of one says, and the rules that JAX has for it.

Written for JAX 0.10 to 0.12. What a later JAX makes otherwise is not guessed: `read` raises, and the call
is left to JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import callback as _callback
from jax._src import core, sharding_impls
from jax._src import debugging as _debugging
from jax._src import mesh as _mesh
from jax._src import xla_bridge as _xla_bridge
from jax._src.interpreters import batching, mlir
from jax._src.state.types import TransformedRef as _TransformedRef


class UnexpectedCall(Exception):
    """A primitive of JAX's has other parameters than those that this file was written for."""


@dataclasses.dataclass(frozen=True)
class Print:
    """What `jax.debug.print` says besides its values."""

    fmt: str
    options: tuple[tuple[str, Any], ...]
    has_fields: bool
    record: Any  # for jax.debug.log

    def show(self, /, *args: Any, **kwargs: Any) -> None:
        """What JAX calls."""
        _debugging._format_print_callback(
            self.fmt, dict(self.options), self.has_fields, self.record, *args, **kwargs
        )


@dataclasses.dataclass(frozen=True)
class JaxCall:
    """What a call of one of JAX's callback primitives says.

    Attributes:
      flat: JAX's own callable, called with one argument for each array.
      function: what the user gave, called with the arguments in their tree; the format of a print; or
        None, if only `flat` is known.
      tree, static: of (args, kwargs): its structure, and leaves that are not arrays by position.
    """

    flat: Callable[..., Any]
    function: Callable[..., Any] | Print | None
    tree: Any
    static: tuple[tuple[int, Any], ...] = ()
    result_avals: tuple[Any, ...] = ()
    ordered: bool = False
    partitioned: bool = False
    sharding: Any = None
    vmap_method: str | None = None

    @property
    def shows_arrays(self) -> bool:
        """Whether it is a breakpoint of JAX's, whose user looks at the program's jax Arrays."""
        module = getattr(self.function, "__module__", None)
        return isinstance(module, str) and module.startswith(_DEBUGGER)


_DEBUGGER = "jax._src.debugger."


def _read_pure(callback: Any, result_avals: Any, sharding: Any, vmap_method: Any) -> JaxCall:
    return dataclasses.replace(
        _of_flat_callback(callback),
        result_avals=tuple(result_avals),
        sharding=sharding,
        vmap_method=vmap_method,
    )


def _read_io(callback: Any, result_avals: Any, sharding: Any, ordered: bool) -> JaxCall:
    return dataclasses.replace(
        _of_flat_callback(callback),
        result_avals=tuple(result_avals),
        sharding=sharding,
        ordered=ordered,
    )


def _of_flat_callback(callback: Any) -> JaxCall:
    if type(callback) is not _callback._FlatCallback:
        return JaxCall(callback, None, None)
    return JaxCall(callback, callback.callback_func, callback.in_tree)


_ORDERED = {_debugging.debug_effect: False, _debugging.ordered_debug_effect: True}


def _read_debug(callback: Any, effect: Any, partitioned: bool) -> JaxCall:
    call = JaxCall(callback, None, None)
    if isinstance(callback, types.FunctionType) and callback.__module__ == _debugging.__name__:
        names, cells = callback.__code__.co_freevars, callback.__closure__ or ()
        if set(names) == {"callback", "in_tree", "static_args"}:
            inside = dict(zip(names, (cell.cell_contents for cell in cells), strict=True))
            # A dict from debug.callback, and pairs from JAX's own lowering of a print.
            static = tuple(dict(inside["static_args"]).items())
            call = JaxCall(callback, inside["callback"], _known_tree(inside["in_tree"]), static)
    return dataclasses.replace(call, ordered=_ORDERED[effect], partitioned=partitioned)


def _read_print(
    fmt: str,
    ordered: bool,
    partitioned: bool,
    in_tree: Any,
    static_args: Any,
    np_printoptions: Any,
    has_placeholders: bool,
    logging_record: Any,
) -> JaxCall:
    text = Print(fmt, tuple(np_printoptions), has_placeholders, logging_record)
    return JaxCall(
        _debugging._make_flat_callback(in_tree, text.show, static_args),
        text,
        _known_tree(in_tree),
        tuple(static_args),
        ordered=ordered,
        partitioned=partitioned,
    )


def _known_tree(tree: Any) -> Any:
    """The structure in `jax.tree`'s registry, unless it has views of Refs (from JAX 0.11 on)."""
    values = jax.tree.unflatten(tree, range(tree.num_leaves))
    leaves, known = jax.tree.flatten(values)
    return tree if any(isinstance(leaf, _TransformedRef) for leaf in leaves) else known


@dataclasses.dataclass(frozen=True)
class JaxCallback:
    """One of JAX's callback primitives.

    Attributes:
      name: the public function's, in JAX.
      logger: which of JAX's loggers gets its failures.
    """

    name: str
    primitive: Any
    logger: str
    _read: Callable[..., JaxCall]

    @functools.cached_property
    def _parameters(self) -> Any:
        return inspect.signature(self._read).parameters.keys()

    def read(self, params: dict[str, Any]) -> JaxCall:
        """What a call with these parameters says.

        Raises:
          UnexpectedCall: they are not those that were known when this was written.
        """
        if params.keys() != self._parameters:
            raise UnexpectedCall(f"the parameters {', '.join(sorted(params))}")
        try:
            return self._read(**params)
        except Exception as error:  # whatever it is, JAX can run the call
            raise UnexpectedCall(f"{type(error).__name__}: {error}") from error


JAX_CALLBACKS = tuple(
    JaxCallback(name, getattr(module, primitive), module.__name__, read)
    for name, module, primitive, read in (
        ("jax.pure_callback", _callback, "pure_callback_p", _read_pure),
        ("jax.io_callback", _callback, "io_callback_p", _read_io),
        ("jax.debug.callback", _debugging, "debug_callback_p", _read_debug),
        ("jax.debug.print", _debugging, "debug_print_p", _read_print),
    )
    if hasattr(module, primitive)
)


def is_of_jax(primitive: Any) -> bool:
    return any(callback.primitive is primitive for callback in JAX_CALLBACKS)


# -- JAX's tables -----------------------------------------------------------------------------------
_ABSENT: Any = object()


class Replaced:
    """An entry in one of JAX's tables, in place of JAX's own until `restore`."""

    def __init__(self, table: MutableMapping[Any, Any], key: Any, value: Any):
        self._table, self._key, self._value = table, key, value
        self._before = table.get(key, _ABSENT)
        table[key] = value

    def restore(self) -> None:
        """Puts back what was there, unless somebody else has replaced the entry since."""
        if self._table.get(self._key, _ABSENT) is not self._value:
            return
        if self._before is _ABSENT:
            del self._table[self._key]
        else:
            self._table[self._key] = self._before


def replace_lowering(primitive: Any, rule: Callable[..., Any]) -> list[Replaced]:
    """On all platforms that JAX has a rule for; `rule` is called with JAX's, and then as it is.

    One rule for all, as JAX has, lets a program for several platforms be lowered once. What JAX notes
    with an entry (whether it is inlined, and cached) stays as it is.
    """
    rules: dict[Any, Callable[..., Any]] = {}
    replaced = []
    for table in (mlir._lowerings, *mlir._platform_specific_lowerings.values()):
        if (entry := table.get(primitive)) is not None:
            new = rules.setdefault(entry.rule, functools.partial(rule, entry.rule))
            replaced.append(Replaced(table, primitive, dataclasses.replace(entry, rule=new)))
    return replaced


def replace_batching(primitive: Any, rule: Callable[..., Any]) -> Replaced:
    return Replaced(batching.fancy_primitive_batchers, primitive, rule)


def replace_eager(primitive: Any, function: Callable[..., Any]) -> Replaced:
    return Replaced(vars(primitive), "impl", function)


# JAX's way to call Python from a lowering rule, which libraries use for primitives of their own.
jax_emit = _callback.emit_python_callback
_EMIT_PARAMETERS = (
    "ctx callback token operands operand_avals result_avals has_side_effect returns_token partitioned "
    "sharding"
)


def replace_emit(function: Callable[..., Any]) -> list[Replaced]:
    """Under JAX's names for it; none if it has other parameters than those."""
    known = inspect.signature(jax_emit).parameters
    if list(known) != _EMIT_PARAMETERS.split():
        return []
    modules = (_callback, jax.interpreters.mlir)
    return [
        Replaced(vars(module), "emit_python_callback", function)
        for module in modules
        if vars(module).get("emit_python_callback") is jax_emit
    ]


TOKEN = "token"  # in place of the effect that a token belongs to, which only the caller knows


def with_token(ctx: Any, token: Any, avals_in: Sequence[Any], avals_out: Sequence[Any]) -> Any:
    """The context of a call that takes such a token, if any, under the key TOKEN."""
    tokens = mlir.TokenSet({} if token is None else {TOKEN: token})
    return ctx.replace(
        avals_in=list(avals_in),
        avals_out=[_with_data(aval) for aval in avals_out],
        tokens_in=tokens,
        tokens_out=None,
    )


def _with_data(aval: Any) -> Any:
    """What has no data (float0) is booleans for `emit_python_callback`."""
    is_empty = getattr(aval, "dtype", None) == jax.dtypes.float0
    return core.ShapedArray(aval.shape, np.bool_) if is_empty else aval


def batching_rule(primitive: Any) -> Any:
    return batching.fancy_primitive_batchers[primitive]


# -- eager calls ------------------------------------------------------------------------------------
def only_cpu() -> bool:
    """Whether JAX has no other platform than CPU here, so that nothing is lowered for another."""
    return _xla_bridge.backends().keys() <= {"cpu"}


@contextlib.contextmanager
def around_debug_callback() -> Iterator[None]:
    """What JAX puts an eager debug callback into: no mesh, and the first CPU device as the default."""
    with (
        jax.default_device(_xla_bridge.local_devices(backend="cpu")[0]),
        sharding_impls._internal_use_concrete_mesh(_mesh.empty_concrete_mesh),
        _mesh.use_abstract_mesh(_mesh.empty_abstract_mesh),
    ):
        yield
