"""A host function with the jax Arrays that it names moved to another device.

For a call on one of XLA's threads (see _nested.py): JAX work on an array that is committed to the
client that calls would run there. What a function names directly (in its closure, its globals, its
defaults, the arguments of a partial) can be replaced for one call without anybody noticing, since
arrays are immutable. Lists and dicts that hold arrays are replaced by copies, and what the call
changes in them is carried back. Other objects cannot be copied without a difference, and stay.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import types
from collections.abc import Iterator
from typing import Any

import jax


@contextlib.contextmanager
def with_arrays_on(function: Any, device: jax.Device) -> Iterator[Any]:
    """`function`, or a copy of it that names copies on `device` of the arrays that it names.

    >>> import jax.numpy as jnp
    >>> weights = jnp.ones(3)
    >>> with with_arrays_on(lambda: weights, jax.devices()[0]) as copy:
    ...     copy() is weights, copy().tolist()
    (False, [1.0, 1.0, 1.0])
    """
    mover = _Mover(device)
    try:
        yield mover.move(function)
    finally:
        mover.carry_back()


class _Globals(dict):
    """The globals of a function as they are at each look-up, but for some names."""

    def __init__(self, names: dict[str, Any], others: dict[str, Any]):
        super().__init__(names)
        self._others = others

    def __missing__(self, name: str) -> Any:
        return self._others[name]

    def __getitem__(self, name: str) -> Any:
        # Not inherited: a dict's own would be used by the interpreter without __missing__.
        return super().__getitem__(name)


class _Mover:
    def __init__(self, device: jax.Device):
        self.device = device
        self.done: dict[int, Any] = {}  # by id, of what has been met; ends recursion
        self.originals: dict[int, Any] = {}  # by id of what replaces them
        self.copies: list[tuple[Any, Any, Any]] = []  # container, its copy, the copy as it was made

    def move(self, value: Any) -> Any:
        if id(value) not in self.done:
            self.done[id(value)] = value
            moved = self.done[id(value)] = self._moved(value)
            self.originals[id(moved)] = value
        return self.done[id(value)]

    def carry_back(self) -> None:
        for original, copy, made in self.copies:
            if type(copy) is list:
                if len(copy) != len(made) or any(
                    a is not b for a, b in zip(copy, made, strict=True)
                ):
                    original[:] = map(self._original, copy)
            elif copy.keys() != made.keys() or any(copy[key] is not made[key] for key in made):
                changed = {key: self._original(value) for key, value in copy.items()}
                original.clear()
                original.update(changed)

    def _original(self, moved: Any) -> Any:
        return self.originals.get(id(moved), moved)

    def _moved(self, value: Any) -> Any:
        if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
            return jax.device_put(value, self.device)
        if isinstance(value, functools.partial):
            keywords = {name: self.move(item) for name, item in value.keywords.items()}
            return functools.partial(self.move(value.func), *map(self.move, value.args), **keywords)
        if type(value) in (list, tuple, dict):
            return self._moved_container(value)
        if isinstance(value, types.FunctionType) and not _assigns_outer_names(value.__code__):
            return self._moved_function(value)
        return value

    def _moved_container(self, container: Any) -> Any:
        items = container.values() if type(container) is dict else container
        moved = [self.move(item) for item in items]
        if all(new is old for new, old in zip(moved, items, strict=True)):
            return container
        if type(container) is tuple:
            return tuple(moved)
        copy: Any = dict(zip(container, moved, strict=True)) if type(container) is dict else moved
        self.copies.append((container, copy, copy.copy()))
        return copy

    def _moved_function(self, function: types.FunctionType) -> types.FunctionType:
        used = {
            name: function.__globals__[name]
            for name in function.__code__.co_names
            if name in function.__globals__
        }
        changed = {k: self.move(v) for k, v in used.items() if self.move(v) is not v}
        copy = types.FunctionType(
            function.__code__,
            _Globals(changed, function.__globals__) if changed else function.__globals__,
            function.__name__,
            tuple(map(self.move, function.__defaults__ or ())) or None,
            tuple(map(self._moved_cell, function.__closure__ or ())) or None,
        )
        copy.__kwdefaults__ = {k: self.move(v) for k, v in (function.__kwdefaults__ or {}).items()}
        return copy

    def _moved_cell(self, cell: types.CellType) -> types.CellType:
        try:
            contents = cell.cell_contents
        except ValueError:  # a variable that is not assigned yet
            return cell
        moved = self.move(contents)
        return cell if moved is contents else types.CellType(moved)


def _assigns_outer_names(code: types.CodeType) -> bool:
    """Whether the function has `nonlocal` or `global` assignments, which a copy would lose."""
    free = set(code.co_freevars)
    return any(
        instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")
        or (instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in free)
        for instruction in dis.get_instructions(code)
    ) or any(
        isinstance(constant, types.CodeType) and _assigns_outer_names(constant)
        for constant in code.co_consts
    )
