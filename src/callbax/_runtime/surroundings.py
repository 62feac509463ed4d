"""The caller's settings, for callbacks that run on other threads.

On the thread that calls a program they hold by themselves: JAX's configuration (`jax.enable_x64` and
the like), contextvars, and with them `numpy.errstate`. Elsewhere:

* Threads that do a part of a callback (lanes) get those of the callback: `Caller`. Other processes get
  JAX's configuration.
* XLA's threads get those of the trace of the program: JAX's configuration as text in the program
  (`configuration`), so that other processes have it, too; contextvars by the registration of the call
  (`context`). The native half (surroundings.cc) puts the threads there.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax

from callbax import _native
from callbax._jax import runtime
from callbax._runtime import nested, threads


def configuration() -> str:
    """What JAX is set to on this thread alone, as text: the same for equal settings; "" if nothing.

    >>> import jax
    >>> with jax.enable_x64(True):
    ...     configuration()
    '{"jax_enable_x64": true}'
    """
    # JAX sets some for a thread while it lowers, to what they are anyway.
    settings = runtime.thread_settings()
    if not settings:
        return ""
    return _as_text({k: v for k, v in settings.items() if not runtime.is_of_process(k, v)})


def _as_text(settings: dict[str, Any]) -> str:
    values = {name: value for name, value in settings.items() if isinstance(value, _PLAIN)}
    return json.dumps(values, sort_keys=True) if values else ""


_PLAIN = (bool, int, float, str, type(None))


def has_x64(text: str) -> bool:
    """Whether 64-bit values are enabled in that `configuration`."""
    name = "jax_enable_x64"
    return bool(_from_text(text).get(name, runtime.is_of_process(name, True)))


def configure(text: str) -> None:
    """Puts this thread into that `configuration`, and out of any other."""
    runtime.exchange_thread_settings(_from_text(text))


def _from_text(text: str) -> dict[str, Any]:
    values = json.loads(text) if text else {}
    return {name: value for name, value in values.items() if isinstance(value, _PLAIN)}


def configured(text: str) -> contextlib.AbstractContextManager[None]:
    """Around work in that `configuration`, as in another process."""
    return _in_settings(_from_text(text))


@contextlib.contextmanager
def _in_settings(settings: dict[str, Any]) -> Iterator[None]:
    before = runtime.exchange_thread_settings(settings)
    try:
        yield
    finally:
        runtime.exchange_thread_settings(before)


_lock = threads.new_lock()
# By the identities of variables and values, which live as long as the context does. Guarded by _lock.
_contexts: weakref.WeakValueDictionary[Any, contextvars.Context] = weakref.WeakValueDictionary()


def context() -> contextvars.Context | None:
    """A copy of this thread's context; the same object for equal ones, None for an empty one."""
    current = contextvars.copy_context()
    if not len(current):
        return None
    key = frozenset((id(variable), id(value)) for variable, value in current.items())
    with _lock:
        return _contexts.setdefault(key, current)


class Caller:
    """What surrounds the code that makes it, for what other threads do on its behalf."""

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._settings = runtime.thread_settings()
        self._device = jax.config.jax_default_device
        self._level = _native.level()

    @property
    def configuration(self) -> str:
        """For another process: what `configured` takes."""
        return _as_text(self._settings)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)` on any thread, in a copy of the caller's context."""
        return self._context.copy().run(self._run, function, args)

    def _run(self, function: Callable[..., Any], args: Any) -> Any:
        with _in_settings(self._settings), nested.as_worker(self._level, self._device):
            return function(*args)
