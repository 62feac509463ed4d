"""Whether a host function holds on to jax Arrays.

JAX work on an array runs where the array lives. If that is the client of the program that calls the
function, the work may wait for a pool, or for a place in a queue, that waits for the function. Such
a program is therefore run synchronously, from the thread that calls it (see _runtime.py).
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import jax

# Enough for any function's own surroundings, and a bound for huge object graphs.
_MOST_OBJECTS = 2000
_MOST_DEPTH = 6


def holds_jax_arrays(function: Any) -> bool:
    """Looks through closures, defaults, used globals, bound objects and containers.

    >>> import jax.numpy as jnp, numpy as np
    >>> weights = jnp.ones(3)
    >>> holds_jax_arrays(lambda x: x @ weights), holds_jax_arrays(np.sin)
    (True, False)
    """
    seen: set[int] = set()
    level = [function]
    for _ in range(_MOST_DEPTH):
        following: list[Any] = []
        for item in level:
            if isinstance(item, jax.Array):
                return True
            if id(item) in seen or len(seen) > _MOST_OBJECTS:
                continue
            seen.add(id(item))
            following.extend(_held_by(item))
        level = following
    return False


def _held_by(item: Any) -> Iterator[Any]:
    if isinstance(item, types.FunctionType):
        yield from _held_by_function(item)
    elif isinstance(item, types.MethodType):
        yield item.__self__
        yield item.__func__
    elif isinstance(item, functools.partial):
        yield from (item.func, *item.args, *item.keywords.values())
    elif isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, (list, tuple, set, frozenset)):
        yield from item
    elif not isinstance(item, (type, types.ModuleType)):
        yield from getattr(item, "__dict__", {}).values()
        if hasattr(item, "__wrapped__"):  # jax.jit and other decorators
            yield item.__wrapped__


def _held_by_function(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a variable that is not assigned yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    names = _names_used(function.__code__)
    for name in names:
        value = function.__globals__.get(name)
        if not isinstance(value, types.ModuleType):
            yield value
            continue
        # `module.name`: both names stand in the code; others of the module do not matter.
        yield from (a for a in map(vars(value).get, names) if isinstance(a, jax.Array))


def _names_used(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_used(constant)
    return names
