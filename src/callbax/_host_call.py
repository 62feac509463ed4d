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
import numpy as np
from jax.tree_util import PyTreeDef, treedef_tuple

from callbax import _jax, _nested, _program_names, _surroundings
from callbax._errors import CallbackResultError, describe_function
from callbax._host_function import Hashable as Hashable
from callbax._host_function import HostFunction as HostFunction
from callbax._host_function import Wording


@dataclasses.dataclass(frozen=True)
class HostCall:
    """A host function, the tree of its (args, kwargs), and the leaves that are static.

    `static` holds (position among all leaves, value) for the leaves that JAX cannot trace. The other
    fields are the options of a HostFunction; `out` is the structure of the result, if the function
    writes it into arrays that it is given; `result`, the structure that what it returns must have.
    """

    _function: Hashable
    tree: PyTreeDef
    static: tuple[tuple[int, Hashable], ...] = ()
    views: bool = False
    out: PyTreeDef | None = None
    result: PyTreeDef | None = None
    cast: bool = False
    masked: bool = False
    name: str | None = None
    wording: Wording = Wording()
    # What JAX is set to where the call stands (_surroundings.py): it is traced anew for other settings.
    configuration: str = ""
    # What _names.py keeps here: its name in programs, if it has no stable one; what keeps it
    # registered for exported programs; what lets it be named by programs.
    local_name: str | None = dataclasses.field(default=None, init=False, compare=False, repr=False)
    exported: Any = dataclasses.field(default=None, init=False, compare=False, repr=False)
    opt_in: Any = dataclasses.field(default=None, init=False, compare=False, repr=False)

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
        """The HostCall of `function(*args, **kwargs)`, and the values to bind.

        The function may be a HostFunction.
        """
        options: dict[str, Any] = {"configuration": _surroundings.configuration()}
        if isinstance(function, HostFunction):
            split_static = split_static or function.static
            out = _out_tree(function, kwargs, result_tree) if function.out else None
            options |= {
                "views": function.views,
                "out": out,
                "result": result_tree if function.structured and out is None else None,
                "cast": function.cast,
                "masked": function.masked,
                "name": function.name,
                "wording": function.wording,
            }
            function = function.function
        flatten = _jax.flatten_with_refs if split_static else jax.tree.flatten
        leaves, tree = flatten((args, kwargs))
        static: tuple[tuple[int, Hashable], ...] = ()
        if split_static:
            traced = [_jax.is_array_like(leaf) for leaf in leaves]
            static = tuple((i, Hashable(leaf)) for i, leaf in enumerate(leaves) if not traced[i])
            leaves = [leaf for i, leaf in enumerate(leaves) if traced[i]]
        return cls(Hashable(function), tree, static, **options), leaves

    @property
    def function(self) -> Callable[..., Any]:
        return self._function.value

    def __str__(self) -> str:
        return describe_function(self.function)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __call__(self, *values: Any) -> Any:
        """Calls the function with `values` put into the tree; returns what it returns.

        The last values are the arrays for its results, if it has asked for them.
        """
        leaves = list(values)
        outs = []
        if self.out is not None:
            first = len(leaves) - self.out.num_leaves
            leaves, outs = leaves[:first], leaves[first:]
        args, kwargs = jax.tree.unflatten(self.tree, self.with_static(leaves))
        if self.out is None:
            return self._checked(self._call(args, kwargs))
        value = self._call(args, {**kwargs, "out": jax.tree.unflatten(self.out, outs)})
        if value is not None and not _same_objects(jax.tree.leaves(value), outs):
            raise _not_out(self, value)
        return None

    def with_static(self, leaves: Sequence[Any]) -> list[Any]:
        """All leaves of the arguments, from those that JAX traces."""
        leaves = list(leaves)
        for position, leaf in self.static:
            leaves.insert(position, leaf.value)
        return leaves

    def _checked(self, value: Any) -> Any:
        """`value`; what the runtime would take as several results must have their structure."""
        if self.result is not None and type(value) in (tuple, list) and not _is_flat(self.result):
            check_structure(self, value)
        return value

    def _call(self, args: Any, kwargs: Any) -> Any:
        if not self.holds_jax_arrays:
            return self.function(*args, **kwargs)
        with _nested.counted_if_committed(self):
            return self.function(*args, **kwargs)

    @functools.cached_property
    def holds_jax_arrays(self) -> bool:
        """Whether JAX work of the function may run on the client that calls it."""
        return _nested.holds_jax_arrays(self.function)

    @functools.cached_property
    def holds_committed_arrays(self) -> bool:
        """Whether JAX work of the function may run on another client than its thread's."""
        return _nested.holds_committed_arrays(self.function)

    def direct(self) -> tuple[Callable[..., Any], tuple[str, ...] | None]:
        """What the runtime calls with flat values, and the names of trailing keyword arguments.

        That is the user's function itself if each argument is one array and nothing is to be
        watched, else this object.
        """
        positional, named = self.tree.children()
        flat = all(_is_leaf(child) for child in (*positional.children(), *named.children()))
        if self.out is not None:
            flat = flat and _is_leaf(self.out)
        if self.result is not None:
            flat = flat and _is_flat(self.result)
        if self.static or not flat or self.holds_jax_arrays:
            return self, None
        names = (*named.node_data()[1], *(() if self.out is None else ("out",)))
        return self.function, names or None

    @functools.cached_property
    def structure_data(self) -> dict[str, Any] | None:
        """The structure as JSON data, for names in programs: of (args, kwargs) or (args, kwargs, out),
        and of a result that is no mere array, or several. None if users' own types are nodes of it:
        these may refuse other leaves. (A result is then described: functions that return different
        ones differ, and each is checked.)"""
        children = (*self.tree.children(), *(() if self.out is None else (self.out,)))
        try:
            data = {"structure": list(map(_program_names.write_tree, children))}
        except TypeError:
            return None
        if self.result is None or _is_flat(self.result):
            return data
        try:
            return {**data, "result": _program_names.write_tree(self.result)}
        except TypeError:
            return {**data, "result": str(self.result)}

    @classmethod
    def from_structure(cls, function: Callable[..., Any], data: Any, result: Any) -> HostCall:
        """The HostCall of that `structure_data`.

        Raises:
          LookupError: the data have another form.
        """
        if not isinstance(data, list) or len(data) not in (2, 3):
            raise LookupError(f"{data!r} does not say what structure is meant")
        args, kwargs, *out = map(_program_names.read_tree, data)
        if not _is_call(args, kwargs):
            raise LookupError(f"{data!r} is not the structure of a call's arguments")
        known = None if result is None or isinstance(result, str) else result
        return cls(
            Hashable(function),
            treedef_tuple((args, kwargs)),
            out=out[0] if out else None,
            result=None if known is None else _program_names.read_tree(known),
        )


def _is_call(args: PyTreeDef, kwargs: PyTreeDef) -> bool:
    """Whether these are structures of a tuple, and of a dict with strings as keys."""
    if _is_leaf(args) or _is_leaf(kwargs):
        return False
    named, keys = kwargs.node_data()
    return args.node_data()[0] is tuple and named is dict and all(type(key) is str for key in keys)


def _is_leaf(tree: PyTreeDef) -> bool:
    return tree.node_data() is None


def _is_flat(tree: PyTreeDef) -> bool:
    """Whether it is one leaf, or a tuple or list of leaves."""
    return _is_leaf(tree) or (
        tree.node_data()[0] in (tuple, list) and all(map(_is_leaf, tree.children()))
    )


def check_structure(call: HostCall, value: Any) -> None:
    """Refuses a result whose arrays could be taken for others: by another order, or other names.

    Lists and named tuples count as tuples, and a single array may be in any container.
    """
    expected, actual = call.result, jax.tree.structure(value)
    if expected is None or expected == actual or expected.num_leaves != actual.num_leaves:
        return  # what has another number of arrays is refused with a message of its own
    if expected.num_leaves > 1 and _outline(expected) != _outline(actual):
        raise CallbackResultError(
            f"Mismatched structure of the result. Expected: {expected}, Actual: {actual}. Returned by "
            f"the callback {call}; return the structure that {call.wording.declared} says."
        )


def _outline(tree: PyTreeDef) -> Any:
    """The structure, where every sequence is a tuple; None stands for no array."""
    if _is_leaf(tree):
        return 0
    kind, data = tree.node_data()
    children = tuple(map(_outline, tree.children()))
    return children if issubclass(kind, (tuple, list)) else (kind, data, children)


def _out_tree(function: HostFunction, kwargs: Any, result_tree: PyTreeDef | None) -> PyTreeDef:
    if result_tree is None or not result_tree.num_leaves:
        raise ValueError(f"{function.callbax_description} has out=True, but no result to write")
    if "out" in kwargs:
        raise ValueError(
            f"{function.callbax_description} has out=True, so it gets its argument 'out' from the "
            "runtime, and it cannot be passed; leave it away, or leave out=True off"
        )
    return result_tree


def _same_objects(values: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(values) == len(others) and all(
        value is other for value, other in zip(values, others, strict=True)
    )


def _not_out(call: HostCall, value: Any) -> CallbackResultError:
    return CallbackResultError(
        f"The callback {call} has out=True, so it must write its result into the argument `out` (as "
        f"in out[...] = x) and return None or `out` itself, but it returned another object, of type "
        f"{type(value).__name__}."
    )


def convert_results(
    call: HostCall,
    value: Any,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[np.dtype],
    canonicalize: bool,
    cast: bool,
) -> list[np.ndarray]:
    """The leaves of what a callback returned, as arrays of just the expected shapes and dtypes.

    `canonicalize` says that 64-bit values may be narrowed, as JAX does while x64 is off; `cast`, that
    any dtype of the same kind is converted. The phrases of the messages are those of JAX, which user
    code matches on.
    """
    if call.out is not None:
        raise _not_out(call, value)
    check_structure(call, value)
    leaves = jax.tree.leaves(value)
    declared = call.wording.declared
    if len(leaves) != len(shapes):
        raise CallbackResultError(
            f"Mismatched number of outputs from callback. Expected: {len(shapes)}, "
            f"Actual: {len(leaves)}. The callback {call} returned a value of type "
            f"{type(value).__name__}; return one array for each leaf of {declared} (a list or "
            "tuple counts as several results: numpy.asarray makes it one)."
        )
    arrays = []
    for i, (leaf, shape, dtype) in enumerate(zip(leaves, shapes, dtypes, strict=True)):
        array = np.asarray(leaf)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if canonicalize and array.dtype != dtype:
            array = array.astype(_NARROWED.get(array.dtype, array.dtype), copy=False)
        if cast and np.can_cast(array.dtype, dtype, "same_kind"):
            array = array.astype(dtype, copy=False)
        if array.dtype.kind in "OSUMm":
            raise CallbackResultError(
                f"Incorrect output dtype for return value #{i}: Expected: {dtype}, Actual: "
                f"{array.dtype}. The callback {call} returned a value of type {type(leaf).__name__}, "
                f"which is no array of numbers; {declared} says what it must be."
            )
        if array.shape != shape:
            raise CallbackResultError(
                f"Incorrect output shape for return value #{i}: Expected: {shape}, "
                f"Actual: {array.shape}. Returned by the callback {call}; reshape the result, or "
                f"change {declared}.{call.wording.batches}"
            )
        if array.dtype != dtype:
            raise CallbackResultError(
                f"Incorrect output dtype for return value #{i}: Expected: {dtype}, "
                f"Actual: {array.dtype}. Returned by the callback {call}; convert the result with "
                f".astype({str(dtype)!r}), or change {declared}."
            )
        # Equal dtypes may be different C types (long and long long): the runtime wants this one.
        arrays.append(array.view(dtype) if array.dtype is not dtype else array)
    return arrays


# What JAX does to values while x64 is off (jax.dtypes.canonicalize_dtype).
_NARROWED = {
    np.dtype("float64"): np.dtype("float32"),
    np.dtype("complex128"): np.dtype("complex64"),
    np.dtype("int64"): np.dtype("int32"),
    np.dtype("uint64"): np.dtype("uint32"),
}
