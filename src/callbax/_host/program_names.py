"""Names of host code in programs, as text.

A name is a JSON object with a key for its kind and, for a callback, the structure of its arguments:

    {"function": "numpy:square", "structure": ["tuple", ["tuple", 0], ["dict"]]}

A program from a file may say anything here, so it is read as data and nothing else: this module
calls and imports nothing that a name speaks of. The text of equal names is equal in each process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import PyTreeDef

from callbax import _native

_LEAF = 0


def write(name: dict[str, Any]) -> str:
    """The name as it is written in a program: ASCII, whatever is in it."""
    return _encode(name)


_encode = json.JSONEncoder(separators=(",", ":")).encode


def read(text: str) -> dict[str, Any]:
    """The name of that text.

    Raises:
      LookupError: it is not a name.
    """
    try:
        name = json.loads(text)
    except (ValueError, RecursionError):
        name = None
    if not isinstance(name, dict):
        raise LookupError(
            f"{text[:200]!r} is not a name that this version of callbax can read. Export the program "
            "again with this version."
        )
    return name


def string(name: dict[str, Any], key: str) -> str:
    """A part of a name that must be a string."""
    value = name.get(key)
    if not isinstance(value, str):
        raise LookupError(f"{write(name)[:200]} is not a name: its {key!r} is not a string")
    return value


def flag(name: dict[str, Any], key: str) -> bool:
    """A part of a name that must be true or false."""
    value = name.get(key)
    if not isinstance(value, bool):
        raise LookupError(f"{write(name)[:200]} is not a name: its {key!r} is not true or false")
    return value


def number(name: dict[str, Any], key: str) -> int:
    """A part of a name that must be a number, not negative."""
    return numbers({key: [name.get(key)]}, key, 1 << 32)[0]


def numbers(name: dict[str, Any], key: str, below: int) -> tuple[int, ...]:
    """A part of a name that must be a list of numbers from 0 to `below`, which is not included."""
    value = name.get(key)
    if not isinstance(value, list) or not all(
        type(number) is int and 0 <= number < below for number in value
    ):
        raise LookupError(f"{write(name)[:200]} is not a name: its {key!r} are not such numbers")
    return tuple(value)


def write_structs(structs: Sequence[jax.ShapeDtypeStruct]) -> list[Any]:
    """Shapes and dtypes as JSON data: each a list of the dtype's name and the sizes.

    Raises:
      TypeError: a size is symbolic.
    """
    if not all(type(size) is int for struct in structs for size in struct.shape):
        raise TypeError("a symbolic size has no text")
    return [[struct.dtype.name, *struct.shape] for struct in structs]


def read_structs(name: dict[str, Any], key: str) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes and dtypes that `write_structs` gave as data, a part of a name.

    Raises:
      LookupError: it is not that; or a dtype that programs do not have.
    """
    data = name.get(key)
    if not isinstance(data, list):
        raise LookupError(f"{write(name)[:200]} is not a name: its {key!r} are not shapes")
    return tuple(map(_read_struct, data))


def _read_struct(data: Any) -> jax.ShapeDtypeStruct:
    dtype, *shape = data if isinstance(data, list) and data else [None]
    is_dtype = isinstance(dtype, str) and _native.dtype_code(dtype) >= 0
    if not is_dtype or not all(type(size) is int and size >= 0 for size in shape):
        raise LookupError(f"{data!r} is not the dtype and the shape of an array")
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))


def write_tree(tree: PyTreeDef) -> Any:
    """A structure of tuples, lists, dicts and Nones as JSON data.

    Raises:
      TypeError: it has nodes of other types, which may refuse the leaves of another process, or
        dicts with keys that JSON does not have.
    """
    node = tree.node_data()
    if node is None:
        return _LEAF
    kind, keys = node
    children = map(write_tree, tree.children())
    if kind is type(None):
        return None
    if kind is tuple or kind is list:
        return [kind.__name__, *children]
    if kind is dict:
        return ["dict", *([_write_key(k), child] for k, child in zip(keys, children, strict=True))]
    raise TypeError(f"{kind} has no text")


def _write_key(key: Any) -> Any:
    if type(key) is tuple:
        return ["tuple", *map(_write_key, key)]
    if type(key) in (str, int, bool, type(None)) or (type(key) is float and key == key):
        return key
    raise TypeError(f"{key!r} has no text")


def read_tree(data: Any) -> PyTreeDef:
    """The structure that `write_tree` gave as data.

    Raises:
      LookupError: it is not one.
    """
    try:
        return jax.tree.structure(_read_tree(data))
    except (TypeError, ValueError, IndexError, RecursionError) as error:
        raise LookupError(f"{write(data)[:200]} does not say what structure is meant") from error


def _read_tree(data: Any) -> Any:
    if data is None or data == _LEAF:
        return data
    kind, *children = data
    match kind:
        case "tuple":
            return tuple(map(_read_tree, children))
        case "list":
            return list(map(_read_tree, children))
        case "dict":
            return {_read_key(key): _read_tree(child) for key, child in children}
    raise ValueError(kind)


def _read_key(key: Any) -> Any:
    if isinstance(key, list):
        kind, *parts = key
        if kind != "tuple":
            raise ValueError(kind)
        return tuple(map(_read_key, parts))
    return key
