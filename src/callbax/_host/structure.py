"""Structure: the arguments of a host function without their arrays."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.tree_util import PyTreeDef, treedef_tuple

from callbax import _jax
from callbax._host import program_names
from callbax._host.function import Hashable
from callbax._runtime.errors import describe_function


@functools.lru_cache(1024)
def _data_of(tree: PyTreeDef) -> tuple[Any, ...]:
    """Many calls of a program have arguments of one structure."""
    return tuple(map(program_names.write_tree, tree.children()))


@dataclasses.dataclass(frozen=True)
class Structure:
    """The tree of (args, kwargs), and the leaves that are static, as JAX cannot trace them.

    `static` holds (position among all leaves, value). Equal for equal calls, so it may be a part of
    what JAX compares to reuse a trace.
    """

    tree: PyTreeDef
    static: tuple[tuple[int, Hashable], ...] = ()

    @classmethod
    def split(cls, tree: PyTreeDef, leaves: Sequence[Any]) -> tuple[Structure, list[Any]]:
        """The structure of flattened arguments, and their arrays."""
        traced = [_jax.is_array_like(leaf) for leaf in leaves]
        static = tuple((i, Hashable(leaf)) for i, leaf in enumerate(leaves) if not traced[i])
        return cls(tree, static), [leaf for i, leaf in enumerate(leaves) if traced[i]]

    @property
    def data(self) -> tuple[Any, ...]:
        """The trees of args and kwargs as JSON data, for names in programs.

        Raises:
          TypeError: users' own types are nodes, which may refuse the leaves of another process.
        """
        return _data_of(self.tree)

    @property
    def texts(self) -> list[Any]:
        """The static leaves as JSON data.

        Raises:
          TypeError: one is not text.
        """
        if not all(type(leaf.value) is str for _, leaf in self.static):
            raise TypeError("static leaves of other types have no text")
        return [[position, leaf.value] for position, leaf in self.static]

    @classmethod
    def from_data(cls, data: Any, texts: Any = ()) -> Structure:
        """The structure of that `data`, and of those `texts`.

        Raises:
          LookupError: they have another form.
        """
        if not isinstance(data, list) or len(data) != 2:
            raise LookupError(f"{data!r} does not say what structure is meant")
        args, kwargs = map(program_names.read_tree, data)
        if not _is_call(args, kwargs):
            raise LookupError(f"{data!r} is not the structure of a call's arguments")
        tree = treedef_tuple((args, kwargs))
        return cls(tree, tuple(_read_texts(texts, tree.num_leaves)))

    def unflatten(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with `leaves` in the places of the arrays."""
        return self._fill(leaves, lambda static: static.value)

    def unflatten_without_static(
        self, leaves: Sequence[Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with `leaves` in the places of the arrays, None in those of static leaves.

        For what has one entry for each array: tangents, cotangents.
        """
        return self._fill(leaves, lambda static: None)

    def _fill(
        self, leaves: Sequence[Any], of_static: Callable[[Hashable], Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        filled = list(leaves)
        for position, value in self.static:
            filled.insert(position, of_static(value))
        return jax.tree.unflatten(self.tree, filled)

    def names(self, parameters: Sequence[str]) -> list[str]:
        """What messages call each array: `x`, `params['mass']`, or `argument 2`."""
        positions = tuple(position for position, _ in self.static)
        return list(_names(self.tree, positions, tuple(parameters)))

    @property
    def arrays(self) -> int:
        """How many arrays the arguments have."""
        return self.tree.num_leaves - len(self.static)

    @property
    def keywords(self) -> tuple[str, ...]:
        """The names of the keyword arguments, in order."""
        return tuple(self.tree.children()[1].node_data()[1])

    @property
    def positional_leaves(self) -> int:
        """How many arrays are in positional arguments; those of keyword arguments follow."""
        count = self.tree.children()[0].num_leaves
        return count - sum(position < count for position, _ in self.static)


def _read_texts(texts: Any, leaves: int) -> Iterator[tuple[int, Hashable]]:
    first = 0
    for item in texts if isinstance(texts, (list, tuple)) else [None]:
        match item:
            case [int(position), str(text)] if first <= position < leaves:
                yield position, Hashable(text)
                first = position + 1
            case _:
                raise LookupError(f"{texts!r} are not texts and their places, in order")


def _is_call(args: PyTreeDef, kwargs: PyTreeDef) -> bool:
    """Whether these are structures of a tuple, and of a dict with strings as keys."""
    if is_leaf(args) or is_leaf(kwargs):
        return False
    named, keys = kwargs.node_data()
    return args.node_data()[0] is tuple and named is dict and all(type(key) is str for key in keys)


@functools.lru_cache(maxsize=256)  # each traced call asks, mostly in vain
def _names(
    tree: PyTreeDef, static: tuple[int, ...], parameters: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        slots = jax.tree.unflatten(tree, list(range(tree.num_leaves)))
    except Exception:  # noqa: BLE001 - a user's node may refuse what is not an array
        return tuple(f"array {i}" for i in range(tree.num_leaves - len(static)))
    names = []
    for (slot, key, *path), leaf in jax.tree_util.tree_flatten_with_path(slots)[0]:
        if leaf in static:
            continue
        if slot.idx == 1:
            root = str(key.key)
        else:
            root = parameters[key.idx] if key.idx < len(parameters) else f"argument {key.idx}"
        names.append(root + jax.tree_util.keystr(tuple(path)))
    return tuple(names)


def is_leaf(tree: PyTreeDef) -> bool:
    return tree.node_data() is None


def is_flat(tree: PyTreeDef) -> bool:
    """Whether it is one leaf, or a tuple or list of leaves."""
    return is_leaf(tree) or (
        tree.node_data()[0] in (tuple, list) and all(map(is_leaf, tree.children()))
    )


def outline(tree: PyTreeDef) -> Any:
    """The structure, where every sequence is a tuple; None means no array."""
    if tree.node_data() is None:
        return 0
    kind, data = tree.node_data()
    children = tuple(map(outline, tree.children()))
    return children if issubclass(kind, (tuple, list)) else (kind, data, children)


def same_names(expected: PyTreeDef, actual: PyTreeDef) -> bool:
    """Whether arrays of one structure cannot be taken for others in the other one.

    Lists and named tuples count as tuples. A single array has no other that it could be taken for, but
    the key of a dict says what it is: it may be in any container, except under another key.
    """
    of_expected, of_actual = outline(expected), outline(actual)
    if of_expected == of_actual or not expected.num_leaves:
        return True
    wanted, given = _bare(of_expected), _bare(of_actual)
    return expected.num_leaves == 1 and (0 in (wanted, given) or wanted == given)


def _bare(shape: Any) -> Any:
    """An outline without tuples of one around it."""
    while type(shape) is tuple and len(shape) == 1:
        (shape,) = shape
    return shape


def positional_parameters(signature: inspect.Signature | None) -> list[str]:
    """Names of the parameters that may be given by position."""
    if signature is None:
        return []
    return [p.name for p in signature.parameters.values() if p.kind in BY_POSITION]


BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def signature_of(
    function: Callable[..., Any], *, without_out: bool = False
) -> inspect.Signature | None:
    """The function's signature, as callers see it; None for much of what is written in C.

    `without_out` leaves out the parameter `out`, which the runtime gives.

    Raises:
      TypeError: it is to be left out, and the function has none.
    """
    try:
        signature = inspect.signature(function)
    except Exception:  # noqa: BLE001 - it compares the function, by code of the user's
        return None
    if not without_out:
        return signature
    parameters = signature.parameters.values()
    if not any(p.name == "out" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(
            f"{describe_function(function)} has out=True, so it is called with the keyword argument "
            f"`out`, the array that it writes its result into; but it takes {signature}"
        )
    others = [p for p in parameters if p.name != "out"]
    return signature.replace(parameters=others)


def _takes(signature: inspect.Signature, count: int) -> bool:
    """Whether that many arguments, all by position, are what the function takes."""
    for parameter in signature.parameters.values():
        kind, is_required = parameter.kind, parameter.default is parameter.empty
        if kind is parameter.VAR_POSITIONAL:
            count = 0
        elif kind in BY_POSITION and count:
            count -= 1
        elif kind is not parameter.VAR_KEYWORD and is_required:
            return False
    return count == 0


def flatten(
    function: Callable[..., Any],
    signature: inspect.Signature | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Structure, list[Any]]:
    """The structure of a call of `function`, and its arrays.

    Arguments given by name move to their positions where the function's signature has these, so
    that rules meet them as positional arguments, as they do in `jax.custom_jvp`.

    Raises:
      TypeError: the arguments do not fit the function's signature; a leaf is neither an array nor
        hashable.
    """
    if signature is not None and (kwargs or not _takes(signature, len(args))):
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{describe_function(function)} was called with arguments that it does not take: "
                f"{error}; its signature is {signature}"
            ) from None
        args, kwargs = bound.args, bound.kwargs
    leaves, tree = jax.tree.flatten((args, kwargs))
    structure, arrays = Structure.split(tree, leaves)
    for position, value in structure.static:
        try:
            hash(value.value)
        except Exception as error:
            name = Structure(tree).names(positional_parameters(signature))[position]
            dtype = getattr(value.value, "dtype", None)
            of_dtype = "" if dtype is None else f" with the dtype {dtype}"
            raise TypeError(
                f"{name} of {describe_function(function)} is of type {type(value.value).__name__}"
                f"{of_dtype}, which is neither an array for JAX nor hashable. What is not "
                "an array is static: it is a part of the key of compiled programs, so it must be "
                "hashable. Pass a hashable object, for instance a tuple or a frozen dataclass, or "
                "arrays."
            ) from error
    return structure, [_jax.key_data(array) for array in arrays]
