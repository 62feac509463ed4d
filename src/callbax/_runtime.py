"""Thin Python face of the native module: registration with XLA, nested work, shutdown."""

from __future__ import annotations

import atexit
import functools
import sys
import threading
from typing import Any

import jax

from callbax import _errors, _host_call, _identity, _jax, _native

TARGET = "callbax_call"
# The same handler under the names that XLA's partitioner needs, for programs on several devices.
PLACED_TARGET = _jax.PLACED_TARGET
PARTITIONED_TARGET = _jax.PARTITIONED_TARGET

# Callbacks still running when the interpreter ends get this long.
_SHUTDOWN_SECONDS = 5.0


@functools.cache
def _nested_device() -> jax.Device:
    """Where JAX work inside callbacks runs: a CPU client whose thread pool is its own."""
    return _jax.make_cpu_device()


_nested_lock = threading.Lock()
_worker_contexts: list[Any] = []


def _enter_worker() -> None:
    """Called once on each XLA thread that runs callbacks, and on no thread of Python's.

    Such a thread belongs to the pool of the program that calls. JAX work that a callback starts
    would wait for that pool, which may wait for the callback. A client of its own cannot.
    """
    with _nested_lock:
        device = _nested_device()
        context = jax.default_device(device)
        context.__enter__()  # for the life of the thread
        _worker_contexts.append(context)


def _shut_down() -> None:
    """At exit: effects run to their end, errors that nobody asked for are shown, calls stop."""
    try:
        _jax.wait_for_effects()
        _errors.raise_pending()
    except Exception as error:
        sys.stderr.write(f"callbax: an error surfaced only at exit: {error}\n")
    sys.stdout.flush()
    _native.close(_SHUTDOWN_SECONDS)


def _start() -> None:
    _native.set_hooks(_errors.report, _host_call.convert_results, _identity.resolve, _enter_worker)
    jax.ffi.register_ffi_type("callbax_call_site", _native.state_type(), platform="cpu")
    for target in (TARGET, PLACED_TARGET, PARTITIONED_TARGET):
        jax.ffi.register_ffi_target(target, _native.handlers(), platform="cpu")
    atexit.register(_shut_down)
    if threading.current_thread() is threading.main_thread():
        _native.watch_interrupts()


_start()
