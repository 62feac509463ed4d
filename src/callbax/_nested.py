"""JAX work that callbacks start, and how it is kept from waiting for the program that called.

XLA runs most programs on the threads of a pool, and limits how many may be in flight. A callback
holds a thread and a place; JAX work that it starts on the same client needs a thread and a place of
its own, and when none is left, both wait for ever. So:

* On XLA's threads the default device is one of a second CPU client, which has no pool: it runs
  programs on the threads that call them.
* A function that visibly holds jax Arrays may work on them where they live, on the client that
  calls. Its program is run synchronously, from the calling thread, which takes no thread of the
  pool. When such a program is called while its inputs are still being computed, JAX runs it on the
  pool all the same; arrays that the function names, also in lists, tuples and dicts, are then moved
  to the second client for the call. Left over are arrays inside other objects, in that case: if JAX
  work on them gets stuck, a warning says so.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any

import jax

from callbax import _errors, _jax_runtime, _moved, _threads

_STUCK_SECONDS = 10.0

# Enough for any function's own surroundings, and a bound for huge object graphs.
_MOST_OBJECTS = 2000
_MOST_DEPTH = 6


_lock = _threads.new_lock()
_contexts: list[Any] = []  # one for each of XLA's threads that has run a callback


@functools.cache
def _own_device() -> jax.Device:
    return _jax_runtime.make_cpu_device()


def enter_worker() -> None:
    """Called once on each of XLA's threads that runs callbacks, and on those of callbax's pool."""
    with _lock:
        context = jax.default_device(_own_device())
        context.__enter__()  # for the life of the thread
        _contexts.append(context)
    _threads.mark_worker()


@contextlib.contextmanager
def as_worker() -> Iterator[None]:
    """Around a host function on somebody else's thread, while a program waits for it."""
    before = _threads.on_worker()
    with jax.default_device(_own_device()):
        _threads.mark_worker()
        try:
            yield
        finally:
            _threads.mark_worker(before)


def moved(function: Any) -> contextlib.AbstractContextManager[Any]:
    """`function` as a worker may call it: with the arrays that it names on the second client."""
    return _moved.with_arrays_on(function, _own_device())


@contextlib.contextmanager
def warn_if_stuck(call: Any) -> Iterator[None]:
    """Around a call of a function that holds jax Arrays."""
    timer = threading.Timer(_STUCK_SECONDS, _errors.logger.warning, (_STUCK_MESSAGE, call))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_STUCK_MESSAGE = (
    "The callback %s has run for 10 s. It holds jax Arrays: if it computes with them, it may be "
    "waiting for the programs that wait for it. Hand it NumPy arrays instead (numpy.asarray), or "
    "wait for a program's inputs (jax.block_until_ready) before calling it."
)


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
            if issubclass(type(item), jax.Array):
                return True
            if id(item) not in seen and len(seen) < _MOST_OBJECTS:
                seen.add(id(item))
                following.extend(itertools.islice(_held_by(item), _MOST_OBJECTS))
        level = following
    return False


def _held_by(item: Any) -> Iterator[Any]:
    # By type alone: asking the object itself would run users' code, which may do and raise anything.
    kind = type(item)
    if kind is types.FunctionType:
        yield from _held_by_function(item)
    elif kind is types.MethodType:
        yield item.__self__
        yield item.__func__
    elif issubclass(kind, functools.partial):
        yield from (item.func, *item.args, *item.keywords.values())
    elif issubclass(kind, dict):
        yield from dict.values(item)
    elif kind in (list, tuple, set, frozenset):
        yield from item
    elif not issubclass(kind, (type, types.ModuleType, weakref.ProxyType)):
        attributes = inspect.getattr_static(item, "__dict__", None)
        if type(attributes) is types.GetSetDescriptorType:
            attributes = _errors.attribute(item, "__dict__")
        yield from attributes.values() if type(attributes) is dict else ()
        if issubclass(kind, _JITTED):
            yield item.__wrapped__


_JITTED = type(jax.jit(lambda: None))


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
