"""Thin Python face of the native module: registration with XLA, shutdown, fork."""

from __future__ import annotations

import atexit
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

from callbax import _jax, _native
from callbax._host import names, results, views
from callbax._jax import barriers as tokens
from callbax._jax import calls, placement, profiles, programs, runtime, saved_programs
from callbax._jax.host_callback import HOST_CALLBACK_EFFECT
from callbax._runtime import (
    barriers,
    detached,
    exceptions,
    failures,
    long_calls,
    nested,
    observation,
    pending,
    pool,
    portable_calls,
    residuals,
    streams,
    surroundings,
    threads,
)

TARGET = "callbax_call"
# The same handler under the names that XLA's partitioner needs, for programs on several devices.
PLACED_TARGET = placement.PLACED_TARGET
PARTITIONED_TARGET = placement.PARTITIONED_TARGET

# Under these the compiler may cut calls between devices (_jax/per_shard.py).
PER_SHARD_TARGET = "callbax_call_per_shard"
LOOP_TARGET = "callbax_loop"

NEEDS_POOL = "needs_pool"  # the attribute of calls of functions that hold jax Arrays
KEEPS_OBJECTS = "keeps_objects"  # that of calls which make their program's call a run

_CALL_TARGETS = (TARGET, PLACED_TARGET, PARTITIONED_TARGET, PER_SHARD_TARGET)
TARGETS = (*_CALL_TARGETS, LOOP_TARGET)

_MARKERS = (_native.Registration,)  # what programs keep alive

_POLL_SECONDS = 0.05
_DAEMON_SECONDS = 1.0
_INTERRUPTED_SECONDS = 0.3


def _shut_down() -> None:
    """At exit: effects run to their end, errors that nobody asked for are shown, calls stop.

    The last is what counts: a thread that came back from its callback later would find no interpreter
    and end the process by a signal. So nothing before it may fail, wherever output goes.
    """
    try:
        _finish_effects()
        _wait_for_calls()
        pool.close(_INTERRUPTED_SECONDS if _is_interrupted() else _DAEMON_SECONDS)
    except KeyboardInterrupt:
        _end_by_interrupt()
    failures.forget_all()


def _finish_effects() -> None:
    messages = []
    try:
        tokens.wait_for_effects()
        _wait_for_detached()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is shown
        shown = portable_calls.without_jax_text(error)
        messages.append(_text_of(shown))
    messages += map(_text_of, barriers.call_all())
    for message in messages + pending.take():
        streams.show(f"callbax: an error surfaced only at exit: {message}")
    threads.finish_logging()
    streams.flush("stdout")


def _wait_for_detached() -> None:
    if not detached.wait(_INTERRUPTED_SECONDS if _is_interrupted() else math.inf):
        raise KeyboardInterrupt


def _is_interrupted() -> bool:
    """Whether an unhandled KeyboardInterrupt ends the process."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt


def _text_of(error: BaseException) -> str:
    return exceptions.text_of(error) or exceptions.type_name(error)


def _wait_for_calls() -> None:
    """Refuses new calls and waits for those that run: their threads could not end without the GIL.

    After an unhandled KeyboardInterrupt it waits for a moment only. The callbacks were sent one too
    (see interrupt.h); one that has not ended by then is inside a C call and cannot be stopped.
    """
    interrupted = _is_interrupted()
    start = time.monotonic()
    waited = False
    while not _native.close(_POLL_SECONDS):
        waited = True
        seconds = time.monotonic() - start
        if interrupted and seconds > _INTERRUPTED_SECONDS:
            raise KeyboardInterrupt
        if seconds > _DAEMON_SECONDS and not _native.statistics()["in_flight_on_workers"]:
            break  # Python ends daemon threads itself
    if waited:
        # Their threads still have to come back through XLA, which must not lose them half-way.
        time.sleep(_POLL_SECONDS)


def _end_by_interrupt() -> None:
    """Ends the process as an unhandled KeyboardInterrupt does, without waiting for its threads."""
    streams.show("callbax: interrupted while a callback runs that cannot be stopped")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


_forked = False


def prepare() -> None:
    """Called for each call that is compiled.

    Raises in a child that was forked after JAX had started: the threads that would compile and run
    a program are missing there.
    """
    if _forked:
        raise RuntimeError(_FORK_MESSAGE)
    _native.watch_interrupts()
    if threads.tracing_has_changed():
        _native.renew_tracing()


_FORK_MESSAGE = (
    "callbax does not work in a forked child of a process in which JAX has started: XLA's threads stay "
    "behind in the parent, and a program would wait for them for ever. Fork before anything is "
    "computed, or start the process by another method, for instance "
    "multiprocessing.get_context('spawn')."
)


def _after_fork_in_child() -> None:
    """A child of a process that has no threads of XLA yet starts with all that it needs."""
    global _forked
    _native.forget_threads()
    _native.forget_detached()
    if not runtime.has_backends():
        return
    _forked = True
    atexit.unregister(_shut_down)  # nothing of the parent's is the child's to wait for
    if _native.statistics()["registered"]:
        programs.disable_programs(_MARKERS, _FORK_MESSAGE)


def _register(platform: str, site: str, handlers: tuple[Any, Any], targets: Sequence[str]) -> None:
    """Registers the handlers of one kind of call, and the type of its site, with XLA."""
    stages, state = handlers
    jax.ffi.register_ffi_type(f"callbax_{site}_site", state, platform=platform)
    for target in targets:
        jax.ffi.register_ffi_target(target, stages, platform=platform)


def _start() -> None:
    _native.set_hooks(
        failures.report,
        results.convert_returned,
        names.resolve,
        nested.enter_worker,
        views.clear_tracebacks,
        views.report_kept,
        nested.go_deeper,
        surroundings.configure,
        threads.follow_tracing,
        pending.add,
    )
    _register("cpu", "call", _native.callback_handlers(), _CALL_TARGETS)
    _register("cpu", "loop", _native.loop_handlers(), (LOOP_TARGET,))
    # Queued until JAX has a plugin for it.
    targets = [placement.ON_CUDA.get(target, target) for target in _CALL_TARGETS]
    _register("CUDA", "cuda_call", _native.cuda_callback_handlers(), targets)
    _register("CUDA", "cuda_loop", _native.cuda_loop_handlers(), (LOOP_TARGET,))
    long_calls.watch()
    for target in (PER_SHARD_TARGET, LOOP_TARGET):
        jax.ffi.register_ffi_target_as_batch_partitionable(target)
    programs.watch_programs(_MARKERS, _native.numbered_calls)
    saved_programs.make_effects_readable()
    saved_programs.mark_loaded_programs(TARGETS, NEEDS_POOL, KEEPS_OBJECTS)
    runtime.set_unheard(failures.raise_pending, pending.forget)
    runtime.watch_runs(residuals.run_begins, residuals.run_ends)
    calls.install(
        frozenset({_jax.IO_EFFECT, _jax.DEBUG_EFFECT}),
        frozenset({_jax.ORDERED_IO_EFFECT, _jax.ORDERED_DEBUG_EFFECT, HOST_CALLBACK_EFFECT}),
        frozenset(TARGETS),
    )
    profiles.watch_profiles(observation.profile_changed)
    atexit.register(_shut_down)
    os.register_at_fork(after_in_child=_after_fork_in_child)


_start()
