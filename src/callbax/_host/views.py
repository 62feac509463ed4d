"""What is done about arrays over XLA's memory that a host function keeps after its call.

Natively (see native/arrays.h) each such array is found by its reference count. Here are the parts
that speak Python: letting go of what a traceback holds, finding what was made from the array, and
the error.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from callbax import _native
from callbax._host import trust
from callbax._host.call import HostCall
from callbax._host.structure import positional_parameters, signature_of
from callbax._runtime.errors import CallbackViewError
from callbax._runtime.exceptions import (
    add_note,
    cause_of,
    context_of,
    exceptions_of,
    is_a,
    traceback_of,
)


def clear_tracebacks(exception: BaseException) -> None:
    """Drops the local variables of the frames that an exception, its causes and contexts have been in.

    They would keep views alive. Frames that still run are left alone.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [exception]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(traceback_of(current))
        waiting += [cause_of(current), context_of(current)]
        if is_a(current, BaseExceptionGroup):
            waiting += exceptions_of(current)


Move = tuple[Any, int, int, int]  # array, address of XLA's memory, address of the copy, bytes


def _follow(moves: Sequence[Move]) -> None:
    """Moves what was made from these arrays without a copy, as far as it can be found."""
    moved = {id(array): addresses for array, *addresses in moves}
    for item in _arrays_and_memoryviews():
        addresses = moved.get(id(_origin(item)))
        if addresses is not None:
            _native.follow(item, *addresses)


def _arrays_and_memoryviews() -> Iterator[Any]:
    """All that the garbage collector knows of, each perhaps several times."""
    containers = gc.get_objects()
    while containers:
        referents = gc.get_referents(*containers)
        # By type alone: asking the object itself would run users' code.
        yield from (i for i in referents if issubclass(type(i), (np.ndarray, memoryview)))
        # The collector leaves out containers of objects that cannot be part of a cycle, as arrays.
        containers = [
            item for item in referents if type(item) in (tuple, dict) and not gc.is_tracked(item)
        ]


def _origin(item: Any) -> Any:
    """The array that owns, or once had, the memory that an array or a memoryview shows."""
    while True:
        origin = _BASE(item) if issubclass(type(item), np.ndarray) else _object_of(item)
        if not issubclass(type(origin), (np.ndarray, memoryview)):
            return item
        item = origin


_BASE = np.ndarray.base.__get__  # type: ignore[attr-defined]


def _object_of(view: memoryview) -> Any:
    try:
        return view.obj
    except ValueError:  # it was released
        return None


def report_kept(
    call: HostCall,
    positions: Sequence[int],
    arguments: int,
    moves: Sequence[Move],
    exception: BaseException | None,
) -> None:
    """Says which arrays a call has kept: in an error of its own, or in a note of the call's error.

    `positions` counts the arguments that JAX traces, and then the arrays in `out`. `moves` are those
    that had XLA's memory and have been given their own.
    """
    if moves:
        _follow(moves)
    message = _message(call, [_describe(call, i, arguments) for i in positions])
    if exception is None:
        raise CallbackViewError(message)
    add_note(exception, f"callbax: {message}")


def _message(call: HostCall, kept: Sequence[str]) -> str:
    return (
        f"The callback {call} kept {' and '.join(kept)} after it returned: a view of XLA's memory, "
        "which holds other data from now on. Keep a copy instead (x.copy(), or x.clone() of a tensor), "
        "or omit zero_copy, device and out (views and out of a HostFunction). What a library in C made "
        "from the view without a copy (a tensor, through DLPack) must not be used any more."
    )


def _describe(call: HostCall, position: int, arguments: int) -> str:
    if position >= arguments:
        assert call.out is not None
        paths = _paths(call.out)
        return f"its array for the result, out{paths[position - arguments]}"
    path = _path(call, position)
    if path[0].idx == 1:  # of (args, kwargs)
        return f"its argument {path[1].key!r}{jax.tree_util.keystr(path[2:])}"
    names = positional_parameters(signature_of(trust.host_function(call.function)))
    label = repr(names[path[1].idx]) if path[1].idx < len(names) else path[1].idx
    return f"its argument {label}{jax.tree_util.keystr(path[2:])}"


def _path(call: HostCall, position: int) -> Any:
    """Where in (args, kwargs) an argument is."""
    numbered = call.structure.unflatten_without_static(range(call.structure.arrays))
    return jax.tree_util.tree_flatten_with_path(numbered)[0][position][0]


def _paths(tree: Any) -> list[str]:
    numbered = jax.tree.unflatten(tree, range(tree.num_leaves))
    return [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(numbered)[0]]
