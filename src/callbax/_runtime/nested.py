"""JAX work that callbacks start, and how it is kept from waiting for the program that called.

XLA runs most programs on the threads of a pool, and limits how many may be in flight. A callback
holds a place, and perhaps a thread; JAX work that it starts on the same client needs its own, and when
none is left, both wait for ever. So there is a CPU client for each level of nesting, and JAX work on a
thread of level k goes to client k (surroundings.h says which level that is, and why nothing then waits
for ever). The clients from 1 on have no pool for whole programs: they run them on the threads that call.

Arrays that are committed to a device are worked on there, whatever the level. So a callback that
visibly holds jax Arrays

* makes its program synchronous: it is run by the thread that calls it, once its inputs are ready;
* gives XLA's thread back to the pool if it is called on one all the same (helpers.h);
* is counted while it runs, if it holds committed ones, since each may need a place of the client that
  has them. One too many is an error, and not a silent wait.

Not seen are arrays that a called function brings in from elsewhere, devices that a callback names
itself, and threads that it starts: JAX work on these has the user's client.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import os
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax

from callbax import _native
from callbax._jax import runtime
from callbax._runtime import errors, threads
from callbax._runtime.wrapper import Wrapper

# Enough for any function's own surroundings, and a bound for huge object graphs.
_MOST_OBJECTS = 2000
_MOST_DEPTH = 9


_lock = threads.new_lock()
_devices: list[jax.Device] = []  # that of level k + 1 at k; guarded by _lock
_contexts: list[Any] = []  # one for each of XLA's threads that has run a callback
_levels: dict[int, int] = {}  # of callbacks, on the threads of these clients, by native id


def _device(level: int) -> jax.Device:
    """The device of that level, from 1 on."""
    with _lock:
        while len(_devices) < level:
            others = _process_threads()
            try:
                device = runtime.make_cpu_device()
            except Exception as error:
                raise RuntimeError(
                    "JAX work in this callback needs a CPU client of its own, the "
                    f"{len(_devices) + 1}th of this process, and XLA could not make one: {error}. So "
                    "many callbacks that use JAX are running at once, or inside one another; let "
                    "fewer of them, or give the process more threads and memory."
                ) from error
            _devices.append(device)
            # Threads that others made meanwhile may be among them: a level too deep does no harm.
            _levels.update(dict.fromkeys(_process_threads() - others, len(_devices) + 1))
        return _devices[level - 1]


def _process_threads() -> set[int]:
    """Native ids, where the system tells them."""
    try:
        return set(map(int, os.listdir("/proc/self/task")))
    except OSError:
        return set()


def enter_worker() -> None:
    """Called once on each of XLA's threads that runs callbacks."""
    level = _levels.get(threading.get_native_id(), 1)
    context = jax.default_device(_device(level))
    context.__enter__()  # for the life of the thread
    with _lock:
        _contexts.append(context)
    _native.set_level(level)
    threads.mark_worker()


def go_deeper(level: int, from_elsewhere: bool) -> Callable[[], Any]:
    """Makes this the level of JAX work on this thread; calling what it returns undoes that.

    The default device of the thread may be one of another platform. There the user has asked for JAX work
    on it; but a program `from_elsewhere` may have been called under it for its own sake.
    """
    if _is_elsewhere(jax.config.jax_default_device) and not from_elsewhere:
        return lambda: None
    return runtime.set_default_device(_device(level))


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Around a callback of a program for another platform: JAX work in it goes to the CPU."""
    with jax.default_device(_device(max(1, _native.level()))):
        yield


def _is_elsewhere(device: Any) -> bool:
    """Whether the user's default device is one of another platform: that stays."""
    return device is not None and getattr(device, "platform", device) != "cpu"


@contextlib.contextmanager
def as_worker(level: int, default_device: Any) -> Iterator[None]:
    """Around a part of a callback on another thread, while a program waits for it.

    `level` and `default_device` are those of the thread that waits.
    """
    level = max(1, level)
    device = default_device if _is_elsewhere(default_device) else _device(level)
    was_worker, level_before = threads.on_worker(), _native.set_level(level)
    try:
        with jax.default_device(device):
            threads.mark_worker()
            yield
    finally:
        threads.mark_worker(was_worker)
        _native.set_level(level_before)


# Of the 32 places of a client, beside those that surroundings.h gives away (2 * kKeepFew).
_MOST_COMMITTED = 23
_committed = 0  # calls in flight that hold committed arrays; guarded by _lock


@contextlib.contextmanager
def counted_if_committed(call: Any) -> Iterator[None]:
    """Around a call of a function that holds jax Arrays: one too many with committed ones raises."""
    global _committed
    if not call.holds_committed_arrays:
        yield
        return
    with _lock:
        if _committed >= _MOST_COMMITTED:
            raise RuntimeError(_TOO_MANY_MESSAGE.format(call=call, most=_MOST_COMMITTED))
        _committed += 1
    try:
        yield
    finally:
        with _lock:
            _committed -= 1


_TOO_MANY_MESSAGE = (
    "The callback {call} holds jax Arrays that are committed to a device, and {most} such callbacks are "
    "running already. Each may need a place of that device's client, which has 32, and they would wait "
    "for each other for ever. Hand the callback NumPy arrays instead (numpy.asarray), or let fewer run "
    "at once, or inside one another."
)


def holds_jax_arrays(function: Any) -> bool:
    """Looks through closures, defaults, used globals, bound objects and containers.

    >>> import jax.numpy as jnp, numpy as np
    >>> weights = jnp.ones(3)
    >>> holds_jax_arrays(lambda x: x @ weights), holds_jax_arrays(np.sin)
    (True, False)
    """
    return any(True for _ in _arrays_of(function))


def holds_committed_arrays(function: Any) -> bool:
    """Whether JAX work of the function may run on another client than that of its thread's level."""
    return any(getattr(array, "committed", False) for array in _arrays_of(function))


def _arrays_of(function: Any) -> Iterator[jax.Array]:
    seen: set[int] = set()
    level = [function]
    for _ in range(_MOST_DEPTH):
        following: list[Any] = []
        for item in level:
            kind = type(item)
            if kind in _HOLD_NOTHING:
                continue
            # Most are functions; to ask whether another type is one of jax.Array's takes long.
            if kind is not types.FunctionType and issubclass(kind, jax.Array):
                yield item
            elif id(item) not in seen and len(seen) < _MOST_OBJECTS:
                seen.add(id(item))
                following.extend(itertools.islice(_held_by(item), _MOST_OBJECTS))
        level = following


_HOLD_NOTHING = frozenset({bool, int, float, complex, str, bytes, type(None)})


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
    elif issubclass(kind, Wrapper) and item.held is not None:
        yield from item.held
    elif not issubclass(kind, (type, types.ModuleType, weakref.ProxyType)):
        attributes = inspect.getattr_static(item, "__dict__", None)
        if type(attributes) is types.GetSetDescriptorType:
            attributes = errors.attribute(item, "__dict__")
        yield from attributes.values() if type(attributes) is dict else ()
        yield from _in_slots(item)
        if issubclass(kind, _JITTED):
            yield item.__wrapped__


def _in_slots(item: Any) -> Iterator[Any]:
    for kind in type(item).__mro__:
        for member in vars(kind).values():
            if type(member) is types.MemberDescriptorType:
                try:
                    yield member.__get__(item)
                except AttributeError:  # a slot that is not assigned yet
                    continue


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
        # `module.name`: both names are in the code; others of the module do not matter.
        yield from (a for a in map(vars(value).get, names) if isinstance(a, jax.Array))


def _names_used(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_used(constant)
    return names
