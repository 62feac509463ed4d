"""Thin Python face of the native module: registration with XLA, shutdown, fork."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time

import jax

from callbax import (
    _exceptions,
    _failures,
    _host_results,
    _identity,
    _jax,
    _jax_placement,
    _jax_programs,
    _jax_runtime,
    _native,
    _nested,
    _streams,
    _surroundings,
    _threads,
    _views,
)

TARGET = "callbax_call"
# The same handler under the names that XLA's partitioner needs, for programs on several devices.
PLACED_TARGET = _jax_placement.PLACED_TARGET
PARTITIONED_TARGET = _jax_placement.PARTITIONED_TARGET

LOOP_TARGET = "callbax_loop"

_MARKERS = (_native.Registration, _native.LoopRegistration)  # what programs keep alive

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
    except KeyboardInterrupt:
        _end_by_interrupt()
    _failures.forget_all()


def _finish_effects() -> None:
    messages = []
    try:
        _jax.wait_for_effects()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is shown
        messages.append(_exceptions.text_of(error) or _exceptions.type_name(error))
    for message in messages + _failures.take_pending():
        _streams.show(f"callbax: an error surfaced only at exit: {message}")
    _threads.finish_logging()
    _streams.flush("stdout")


def _wait_for_calls() -> None:
    """Refuses new calls and waits for those that run: their threads could not end without the GIL.

    After an unhandled KeyboardInterrupt it waits for a moment only. The callbacks were sent one too
    (see interrupt.h); one that has not ended by then is inside a C call and cannot be stopped.
    """
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
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
    _streams.show("callbax: interrupted while a callback runs that cannot be stopped")
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
    if _threads.tracing_has_changed():
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
    if not _jax_runtime.has_backends():
        return
    _forked = True
    atexit.unregister(_shut_down)  # nothing of the parent's is the child's to wait for
    statistics = _native.statistics()
    if statistics["registered"] or statistics["loops"]:
        _jax_programs.disable_programs(_MARKERS, _FORK_MESSAGE)


def _start() -> None:
    _native.set_hooks(
        _failures.report,
        _host_results.convert_returned,
        _identity.resolve,
        _nested.enter_worker,
        _views.clear_tracebacks,
        _views.report_kept,
        _nested.go_deeper,
        _surroundings.configure,
        _threads.follow_tracing,
    )
    jax.ffi.register_ffi_type("callbax_call_site", _native.state_type(), platform="cpu")
    for target in (TARGET, PLACED_TARGET, PARTITIONED_TARGET):
        jax.ffi.register_ffi_target(target, _native.handlers(), platform="cpu")
    jax.ffi.register_ffi_type("callbax_loop_site", _native.loop_state_type(), platform="cpu")
    jax.ffi.register_ffi_target(LOOP_TARGET, _native.loop_handlers(), platform="cpu")
    jax.ffi.register_ffi_target_as_batch_partitionable(LOOP_TARGET)
    _jax_programs.watch_programs(_MARKERS, _native.numbered_calls)
    atexit.register(_shut_down)
    os.register_at_fork(after_in_child=_after_fork_in_child)


_start()
