"""HostCall: a Python function with the structure of its arguments, as a primitive's parameter.

JAX compares and hashes parameters to decide whether it may reuse a trace or an executable, so two
calls of the same function with arguments of the same structure must give equal HostCalls.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.tree_util import PyTreeDef

from callbax import _jax
from callbax._host import program_names
from callbax._host.function import Casting, Hashable, HostFunction
from callbax._host.structure import Structure, is_flat, is_leaf, same_names
from callbax._runtime import nested, surroundings
from callbax._runtime.errors import CallbackResultError, describe_function
from callbax._runtime.exceptions import is_a
from callbax._runtime.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class HostCall:
    """A host function with the structure of its arguments.

    The other fields are the options of a HostFunction; `out` is the structure of the result, if the
    function writes it into arrays that it is given; `result`, the structure that what it returns must
    have.
    """

    _function: Hashable
    structure: Structure
    views: bool = False
    out: PyTreeDef | None = dataclasses.field(default=None, compare=False)
    result: PyTreeDef | None = dataclasses.field(default=None, compare=False)
    casting: Casting = "none"
    masked: bool = False
    name: str | None = None
    external: str = ""
    # What JAX is set to where the call is (_runtime/surroundings.py): other settings, other traces.
    configuration: str = ""
    # `out` and `result`, to be compared: a PyTreeDef refuses to be compared with None.
    _trees: Any = dataclasses.field(init=False, repr=False)
    # What _host/names.py keeps here: its name in programs, if it has no stable one; what keeps it
    # registered for exported programs; what lets it be named by programs.
    local_name: str | None = dataclasses.field(default=None, init=False, compare=False, repr=False)
    exported: Any = dataclasses.field(default=None, init=False, compare=False, repr=False)
    opt_in: Any = dataclasses.field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        trees = tuple(() if tree is None else (tree,) for tree in (self.out, self.result))
        object.__setattr__(self, "_trees", trees)

    def __hash__(self) -> int:
        return hash(self._function)  # JAX asks often, and one function has few other fields

    @classmethod
    def from_arguments(
        cls,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        *,
        split_static: bool = False,
        result_tree: PyTreeDef | None = None,
    ) -> tuple[HostCall, list[Any]]:
        """The HostCall of `function(*args, **kwargs)`, perhaps a HostFunction, and what to bind."""
        if split_static:
            leaves, tree = _jax.flatten_with_refs((args, kwargs))
            structure, leaves = Structure.split(tree, leaves)
        else:
            leaves, tree = jax.tree.flatten((args, kwargs))
            structure = Structure(tree)
        return cls.of(function, structure, result_tree), leaves

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        structure: Structure,
        result_tree: PyTreeDef | None = None,
        configuration: str | None = None,
    ) -> HostCall:
        """The HostCall of a function, or of a HostFunction with its options."""
        configuration = surroundings.configuration() if configuration is None else configuration
        if not isinstance(function, HostFunction):
            return cls(Hashable(function), structure, configuration=configuration)
        out = _out_tree(function, structure, result_tree) if function.out else None
        return cls(
            Hashable(function.function),
            structure,
            views=function.views,
            out=out,
            result=result_tree if function.external and out is None else None,
            casting=function.casting,
            masked=function.masked,
            name=function.name,
            external=function.external,
            configuration=configuration,
        )

    @property
    def function(self) -> Callable[..., Any]:
        return self._function.value

    def with_function(
        self, function: Callable[..., Any], structure: Structure | None = None
    ) -> HostCall:
        """The same call of another function, perhaps with other arguments."""
        return dataclasses.replace(
            self, _function=Hashable(function), structure=structure or self.structure
        )

    def __str__(self) -> str:
        return describe_function(self.function)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __call__(self, *values: Any) -> Any:
        """What the runtime calls."""
        if not self.holds_jax_arrays:
            return self.call(values)
        with nested.counted_if_committed(self):
            return self.call(values)

    def call(self, values: Sequence[Any]) -> Any:
        """Calls the function with `values` put into the tree; returns what it returns.

        With `views` the arrays are read-only for the function. The last values are the arrays for its
        results, if it has asked for them; then this returns None.

        Raises:
          CallbackResultError: the result has another structure; or there are arrays for the results,
            and the function returned anything else.
        """
        if self._calls_directly:
            return self.function(*values)
        leaves, outs = values, values[:0]
        if self.out is not None:
            first = len(values) - self.out.num_leaves
            leaves, outs = values[:first], values[first:]
        if self.views:
            for leaf in leaves:
                if hasattr(leaf, "flags"):  # a DeviceArray has none, and is so already
                    leaf.flags.writeable = False
        if self._takes_values:
            return self._checked(self.function(*leaves))
        args, kwargs = self.structure.unflatten(leaves)
        if self.out is None:
            return self._checked(self.function(*args, **kwargs))
        value = self.function(*args, **kwargs, out=jax.tree.unflatten(self.out, outs))
        if value is not None and [*map(id, jax.tree.leaves(value))] != [*map(id, outs)]:
            raise self.not_out(value)
        return None

    @functools.cached_property
    def _calls_directly(self) -> bool:
        """Whether nothing is to be done but to call the function with the values."""
        as_it_is = self.result is None or is_flat(self.result)
        return self._takes_values and not self.views and as_it_is

    @functools.cached_property
    def _takes_values(self) -> bool:
        """Whether each argument is one array, given by position, and nothing else is given."""
        tree = self.structure.tree
        flat = tree == jax.tree.structure(((0,) * tree.num_leaves, {}))
        return flat and not self.structure.static and self.out is None

    def _checked(self, value: Any) -> Any:
        """`value`; what the runtime would take as several results must have their structure."""
        if self.result is not None and type(value) in (tuple, list) and not is_flat(self.result):
            self.check_structure(value)
        return value

    def check_structure(self, value: Any) -> None:
        """Refuses a result whose arrays could be taken for others: by another order, or other names.

        `same_names` says which those are.
        """
        expected, actual = self.result, jax.tree.structure(value)
        if expected is None or expected == actual or expected.num_leaves != actual.num_leaves:
            return  # what has another number of arrays is refused with a message of its own
        if not same_names(expected, actual):
            raise CallbackResultError(
                f"Mismatched structure of the result. Expected: {expected}, Actual: {actual}. "
                f"Returned by the callback {self}; return the structure that {self.declared} says."
            )

    @property
    def declared(self) -> str:
        """What says, in messages, which results it has."""
        return "result= or signature=" if self.external else _kind(self.function).declared

    def not_out(self, value: Any) -> CallbackResultError:
        """The error of a function with out=True that has returned something else."""
        return CallbackResultError(
            f"The callback {self} has out=True, so it must write its result into the argument `out` (as "
            f"in out[...] = x) and return None or `out` itself, but it returned another object, of type "
            f"{type(value).__name__}."
        )

    @functools.cached_property
    def holds_jax_arrays(self) -> bool:
        """Whether JAX work of the function may run on the client that calls it."""
        return nested.holds_jax_arrays(self.function)

    @functools.cached_property
    def holds_committed_arrays(self) -> bool:
        """Whether JAX work of the function may run on another client than its thread's."""
        return nested.holds_committed_arrays(self.function)

    def direct(self) -> tuple[Callable[..., Any], tuple[str, ...] | None]:
        """What the runtime calls with flat values, and the names of trailing keyword arguments.

        That is the user's function itself if each argument is one array and nothing is to be
        watched, else this object.
        """
        positional, named = self.structure.tree.children()
        outs = () if self.out is None else (self.out,)
        flat = all(map(is_leaf, (*positional.children(), *named.children(), *outs)))
        flat &= self.result is None or is_flat(self.result)
        if self.structure.static or not flat or self.holds_jax_arrays:
            return self, None
        function: Any = self.function
        if self.ignores_result:
            function = function.host_function
        return function, (*self.structure.keywords, *("out" for _ in outs)) or None

    @property
    def ignores_result(self) -> bool:
        """Whether the runtime is to ignore what is returned to it."""
        return _kind(self.function).ignores_result

    @functools.cached_property
    def structure_data(self) -> dict[str, Any] | None:
        """The structure as JSON data, for names in programs: of (args, kwargs) or (args, kwargs, out),
        and of a result that is not one array, or several. None if that cannot be written. (A result
        is then described: functions that return different ones differ, and each is checked.)"""
        try:
            out = [] if self.out is None else [program_names.write_tree(self.out)]
            data: dict[str, Any] = {"structure": [*self.structure.data, *out]}
            if self.structure.static:
                data["texts"] = self.structure.texts
        except TypeError:
            return None
        if self.structure.static and not _kind(self.function).takes_text:
            return None
        if self.result is None or is_flat(self.result):
            return data
        try:
            data["result"] = program_names.write_tree(self.result)
        except TypeError:
            data["result"] = str(self.result)
        return data

    @classmethod
    def from_structure(cls, function: Callable[..., Any], name: dict[str, Any]) -> HostCall:
        """The HostCall of that `structure_data`, a part of a name.

        Raises:
          LookupError: the data have another form.
        """
        data: Any = name.get("structure")
        result, texts = name.get("result"), name.get("texts")
        if texts is not None and not _kind(function).takes_text:
            raise LookupError(f"{describe_function(function)}, which programs may not give text")
        has_out = isinstance(data, list) and len(data) == 3
        known = None if result is None or isinstance(result, str) else result
        return cls(
            Hashable(function),
            Structure.from_data(data[:2] if has_out else data, texts or ()),
            out=program_names.read_tree(data[2]) if has_out else None,
            result=None if known is None else program_names.read_tree(known),
        )


def _kind(function: Any) -> type[Wrapper]:
    """The class whose attributes say what is to be known of the function."""
    return type(function) if is_a(function, Wrapper) else Wrapper


def _out_tree(
    function: HostFunction, structure: Structure, result_tree: PyTreeDef | None
) -> PyTreeDef:
    if result_tree is None or not result_tree.num_leaves:
        raise ValueError(f"{function.description} has out=True, but no result to write")
    if "out" in structure.keywords:
        raise ValueError(
            f"{function.description} has out=True, so it gets its argument 'out' from the "
            "runtime, and it cannot be passed; omit it, or omit out=True"
        )
    return result_tree
