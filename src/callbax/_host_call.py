"""HostCall: a Python function with the structure of its arguments, as a primitive's parameter.

JAX compares and hashes parameters to decide whether it may reuse a trace or an executable, so two
calls of the same function with arguments of the same structure must give equal HostCalls.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import PyTreeDef

from callbax import _jax, _nested, _threads
from callbax._errors import CallbackResultError, describe_function


class Hashable:
    """Any value as a part of a key: by value if it can be hashed, by identity if it cannot.

    The type counts, since values of different types may be equal (`numpy.dtype("int32")` equals
    the string "int32").
    """

    __slots__ = ("_key", "value")

    def __init__(self, value: Any):
        self.value = value
        try:
            hash(value)
            self._key: Any = (type(value), value)
        except Exception:  # noqa: BLE001 - whatever a user's __hash__ raises
            self._key = id(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashable) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclasses.dataclass(frozen=True)
class HostCall:
    """A host function, the tree of its (args, kwargs), and the leaves that are static.

    `static` holds (position among all leaves, value) for the leaves that JAX cannot trace.
    """

    _function: Hashable
    tree: PyTreeDef
    static: tuple[tuple[int, Hashable], ...] = ()
    # Its name in programs, if it has no stable one; given by _identity.py.
    unique_name: str | None = dataclasses.field(default=None, compare=False, repr=False)

    @classmethod
    def from_arguments(
        cls, function: Callable[..., Any], args: Any, kwargs: Any, *, split_static: bool
    ) -> tuple[HostCall, list[Any]]:
        """The HostCall of `function(*args, **kwargs)`, and the values to bind."""
        leaves, tree = jax.tree.flatten((args, kwargs))
        static: tuple[tuple[int, Hashable], ...] = ()
        if split_static:
            traced = [_jax.is_array_like(leaf) for leaf in leaves]
            static = tuple((i, Hashable(leaf)) for i, leaf in enumerate(leaves) if not traced[i])
            leaves = [leaf for i, leaf in enumerate(leaves) if traced[i]]
        return cls(Hashable(function), tree, static), leaves

    @property
    def function(self) -> Callable[..., Any]:
        return self._function.value

    def __str__(self) -> str:
        return describe_function(self.function)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __call__(self, *values: Any) -> Any:
        """Calls the function with `values` put into the tree; returns what it returns."""
        leaves = list(values)
        for position, leaf in self.static:
            leaves.insert(position, leaf.value)
        args, kwargs = jax.tree.unflatten(self.tree, leaves)
        if _threads.on_worker() and self.holds_jax_arrays:
            with _nested.warn_if_stuck(self), _nested.moved(self.function) as function:
                return function(*args, **kwargs)
        return self.function(*args, **kwargs)

    @functools.cached_property
    def holds_jax_arrays(self) -> bool:
        """Whether JAX work of the function may run on the client that calls it."""
        return _nested.holds_jax_arrays(self.function)

    def direct(self) -> tuple[Callable[..., Any], tuple[str, ...] | None]:
        """What the runtime calls with flat values, and the names of trailing keyword arguments.

        That is the user's function itself if each argument is one array and nothing is to be
        watched, else this object.
        """
        positional, named = self.tree.children()
        flat = all(_is_leaf(child) for child in (*positional.children(), *named.children()))
        if self.static or not flat or self.holds_jax_arrays:
            return self, None
        return self.function, tuple(named.node_data()[1]) or None

    @functools.cached_property
    def tree_text(self) -> str | None:
        """The tree as a Python literal with 0 for each leaf; None if it has nodes of other types."""
        if not _is_plain(self.tree):
            return None
        text = repr(jax.tree.unflatten(self.tree, [0] * self.tree.num_leaves))
        try:
            faithful = jax.tree.structure(ast.literal_eval(text)) == self.tree
        except (ValueError, SyntaxError, TypeError):
            return None  # a dict with keys that are no literals
        return text if faithful else None


def _is_leaf(tree: PyTreeDef) -> bool:
    return tree.node_data() is None


def _is_plain(tree: PyTreeDef) -> bool:
    """Whether all nodes are tuples, lists, dicts and Nones: users' own may refuse other leaves."""
    if _is_leaf(tree):
        return True
    kind = tree.node_data()[0]
    return kind in (tuple, list, dict, type(None)) and all(map(_is_plain, tree.children()))


def convert_results(
    call: HostCall,
    value: Any,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[np.dtype],
    canonicalize: bool,
) -> list[np.ndarray]:
    """The leaves of what a callback returned, as arrays of just the expected shapes and dtypes.

    `canonicalize` says that 64-bit values may be narrowed, as JAX does while x64 is off. The phrases
    of the messages are those of JAX, which user code matches on.
    """
    leaves = jax.tree.leaves(value)
    if len(leaves) != len(shapes):
        raise CallbackResultError(
            f"Mismatched number of outputs from callback. Expected: {len(shapes)}, "
            f"Actual: {len(leaves)}. The callback {call} returned a value of type "
            f"{type(value).__name__}; return one array for each leaf of result_shape_dtypes (a list or "
            "tuple counts as several results: numpy.asarray makes it one)."
        )
    arrays = []
    for i, (leaf, shape, dtype) in enumerate(zip(leaves, shapes, dtypes, strict=True)):
        array = np.asarray(leaf)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if canonicalize and array.dtype != dtype:
            array = array.astype(_NARROWED.get(array.dtype, array.dtype), copy=False)
        if array.dtype.kind in "OSUMm":
            raise CallbackResultError(
                f"Incorrect output dtype for return value #{i}: Expected: {dtype}, Actual: "
                f"{array.dtype}. The callback {call} returned a value of type {type(leaf).__name__}, "
                "which is no array of numbers; result_shape_dtypes says what it must be."
            )
        if array.shape != shape:
            raise CallbackResultError(
                f"Incorrect output shape for return value #{i}: Expected: {shape}, "
                f"Actual: {array.shape}. Returned by the callback {call}; reshape the result, or "
                "change result_shape_dtypes."
            )
        if array.dtype != dtype:
            raise CallbackResultError(
                f"Incorrect output dtype for return value #{i}: Expected: {dtype}, "
                f"Actual: {array.dtype}. Returned by the callback {call}; convert the result with "
                f".astype({str(dtype)!r}), or change result_shape_dtypes."
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
