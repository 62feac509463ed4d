"""install, uninstall, installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, get_args

from callbax._install import rules, state
from callbax._install.state import Arguments
from callbax._jax.jax_callbacks import Replaced
from callbax._runtime import detached, platforms, threads

_lock = threads.new_lock()
_users = 0  # the process, if it is installed there, and blocks; guarded by _lock
_replaced: list[
    Replaced
] = []  # what stands in JAX's tables while there are users; guarded by _lock


def install(arguments: Arguments = "numpy") -> None:
    """Makes JAX's own callbacks run on callbax's runtime, whoever calls them, on CPU.

    From then on, in this process, what is traced or called with `jax.pure_callback`,
    `jax.experimental.io_callback`, `jax.debug.callback` and `jax.debug.print` runs as callbax's do,
    and means what it means in JAX. Programs for other platforms, and JAX's names and jaxprs, stay as
    they are. Programs that are compiled already are compiled once more when they are called next.
    callbax's own effects without results are detached from programs on an NVIDIA GPU (see sharp bits).
    With CALLBAX_RUNTIME=portable nothing changes: callbax's callbacks go through JAX's then.

    Args:
      arguments: what the callbacks get: "numpy" arrays; or "jax" Arrays on CPU, as from JAX, for
        callbacks that use what only these have (`x.at`, `isinstance(x, jax.Array)`).

    Raises:
      ValueError: another value of `arguments`.

    >>> import jax, callbax
    >>> callbax.install()
    >>> jax.jit(lambda x: jax.debug.callback(lambda x: print(type(x)), x))(1.0)
    <class 'numpy.ndarray'>
    >>> callbax.uninstall()
    """
    _check(arguments)
    with _lock:
        if state.context().get_global() is None:
            _add_user()
        state.context().set_global(arguments)
        detached.set_default(True)


def uninstall() -> None:
    """Gives JAX's callbacks back to JAX, in this process; blocks of `installed` stay until they end.

    Programs that were compiled in between are not used any more, unless they are held as such (by
    `jax.jit(f).lower(...).compile()`). Without an `install` before, it does nothing.

    >>> import callbax
    >>> callbax.install()
    >>> callbax.uninstall()
    """
    with _lock:
        if state.context().get_global() is not None:
            state.context().set_global(None)
            detached.set_default(False)
            _remove_user()


def installed(arguments: Arguments = "numpy") -> contextlib._GeneratorContextManager[None]:
    """Inside the block, JAX's callbacks run on callbax's runtime, as after `callbax.install`.

    It holds for what this thread traces and calls, and goes before what `install` says; blocks may be
    nested.

    Args:
      arguments: as for `callbax.install`.

    Returns:
      A context manager, which is also a decorator: `@callbax.installed()`.

    Raises:
      ValueError: another value of `arguments`.

    >>> import jax, callbax
    >>> with callbax.installed():
    ...     jax.jit(lambda x: jax.debug.callback(lambda x: print(type(x)), x))(1.0)
    <class 'numpy.ndarray'>
    """
    _check(arguments)
    return _installed(arguments)


@contextlib.contextmanager
def _installed(arguments: Arguments) -> Iterator[None]:
    with _lock:
        _add_user()
    try:
        with state.context()(arguments):
            yield
    finally:
        with _lock:
            _remove_user()


def _check(arguments: Any) -> None:
    if arguments not in get_args(Arguments):
        raise ValueError(
            "arguments must be 'numpy' or 'jax', for what JAX's callbacks are to get, "
            f"but is {arguments!r}"
            + ("; the decorator is @callbax.installed()" if callable(arguments) else "")
        )


def _add_user() -> None:
    global _users, _replaced
    _users += 1
    if _users == 1 and platforms.runtime_of(["cpu"]).is_native:
        _replaced = rules.replace_all()


def _remove_user() -> None:
    global _users, _replaced
    _users -= 1
    if _users == 0:
        for entry in reversed(_replaced):
            entry.restore()
        _replaced = []
