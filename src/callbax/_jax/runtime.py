"""The gateway's part for programs that run: backends, clients, and how a program is called."""

from __future__ import annotations

import enum
import functools
import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax._src import config as _config
from jax._src import dispatch
from jax._src import xla_bridge as _xla_bridge
from jax._src.array import ArrayImpl
from jax._src.interpreters import pxla
from jax._src.lib import xla_client as _xla_client

from callbax import _jax, _native
from callbax._jax import programs


def has_backends() -> bool:
    """Whether JAX has started a backend, and with it XLA's threads.

    Read without JAX's lock, so that it may be asked in a forked child.
    """
    return bool(_xla_bridge._backends)


def make_cpu_device() -> jax.Device:
    """A CPU device of a client of its own, which runs programs on the threads that call them.

    It waits for no pool, so work on it may be nested to any depth.
    """
    client = _xla_client.make_cpu_client(num_devices=1, asynchronous=False)
    return client.local_devices()[0]


# -- settings --------------------------------------------------------------------------------------
# What a user sets for a thread (jax.enable_x64(True), jax.debug_nans(True), ...). Left out: the default
# device, which is callbax's to choose on other threads; what names files and services, is about
# exports, debugging information and other platforms, or is set once for the process; and what only
# JAX's own tracing sets. (Each call reads the others.)
_NOT_SETTINGS = re.compile(
    r"default_device|size_one_mesh|cache|_dir|log|platform|distributed|plugin"
    r"|serialization|export|pjrt|captured_constants|leaked_clients|hlo_source|source_url|locations"
    r"|share_binary|pgle|cpu_collectives|num_cpu|xla_profile|recoverability|preemption|pprint"
    r"|gpu|mosaic|magma|bcoo|emit_pipeline"
)
_SETTINGS = {
    name: state
    for name, state in _config.config_states.items()
    if name.startswith("jax_") and not _NOT_SETTINGS.search(name)
}
_UNSET = _config.config_ext.unset
_READERS = [state.get_local for state in _SETTINGS.values()]
_ALL_UNSET = [_UNSET] * len(_READERS)


def thread_settings() -> dict[str, Any]:
    """The settings of this thread that are not those of the process."""
    values = list(map(operator.call, _READERS))  # each call comes here, mostly to find nothing
    if values == _ALL_UNSET:
        return {}
    return {n: v for n, v in zip(_SETTINGS, values, strict=True) if v is not _UNSET}


def is_of_process(name: str, value: Any) -> bool:
    """Whether a setting has that value where no thread says otherwise."""
    return bool(_SETTINGS[name].get_global() == value)


def exchange_thread_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Gives this thread those settings and no others; returns those that it had."""
    before = thread_settings()
    for name in before.keys() | (values.keys() & _SETTINGS.keys()):
        state, value = _SETTINGS[name], values.get(name, _UNSET)
        state.set_local(value)
        if state._update_thread_local_hook:
            state._update_thread_local_hook(None if value is _UNSET else value)
    return before


def set_default_device(device: jax.Device) -> Callable[[], Any]:
    """Sets the default device of this thread; calling what it returns undoes that.

    `jax.default_device` is Python code, in which a signal's exception may come: after a call that has
    been interrupted, the device would stay. What is returned is none.
    """
    state = _config.default_device
    undo = functools.partial(state.set_local, state.get_local())
    try:
        state.set_local(device)
    except BaseException:
        undo()
        raise
    return undo


# -- calls that end with their effects --------------------------------------------------------------
class Mark(enum.Enum):
    """What a program keeps that says how it is to be called."""

    # Its calls wait for their inputs, and for its end. JAX sends off a program whose inputs are still
    # being computed, or have to be copied from another client, or which runs on several devices, or is
    # large; the call would return before its effects.
    ENDS_WITH_ITS_EFFECTS = enum.auto()
    # It calls a loaded program, whose calls do not know whether this one has results.
    CALLS_LOADED_PROGRAM = enum.auto()
    # It has effects that its calls do not wait for; it may have others, too.
    HAS_DETACHED_EFFECTS = enum.auto()
    # It is told when a call of it begins and ends.
    IS_A_RUN = enum.auto()
    # It calls back, so it may fail.
    CALLS_BACK = enum.auto()


def mark_calls(
    ctx: Any,
    *,
    effectful: bool,
    holds_jax_arrays: bool,
    keeps_objects: bool = False,
    is_native: bool = True,
    is_loaded: bool = False,
    is_detached: bool = False,
) -> bool:
    """Leaves marks in the program that is being lowered, so that its calls end with their effects.

    On several devices also without effects: a result that has failed must not reach another program.
    The device that has it would not run that, and the others might wait for it.

    Objects that are kept for a run are made on the thread that calls, as far as XLA runs a program on
    one thread, since they are let go there: the memory of some (SciPy's SuperLU) is freed only by the
    thread that has taken it.

    Returns whether the call that is being lowered must itself keep a failure on a thread of XLA's,
    since the program has no results that would carry it.
    """
    _jax.keep_alive(ctx, Mark.CALLS_BACK)
    shared_run = _jax.device_count(ctx) > 1
    on_calling_thread = holds_jax_arrays or keeps_objects
    if shared_run or on_calling_thread or effectful:
        _jax.keep_alive(ctx, Mark.ENDS_WITH_ITS_EFFECTS)
    if is_loaded:
        _jax.keep_alive(ctx, Mark.CALLS_LOADED_PROGRAM)
    if is_detached:
        _jax.keep_alive(ctx, Mark.HAS_DETACHED_EFFECTS)
    if keeps_objects:
        _jax.keep_alive(ctx, Mark.IS_A_RUN)
    waits = waits_for_inputs and not shared_run
    if is_native and (on_calling_thread or (effectful and not waits)):
        _jax.run_synchronously(ctx)
    unheard = is_native and effectful and not shared_run and not _jax.is_exporting(ctx)
    return unheard and not _jax.has_results(ctx)


def has(program: Any, mark: Mark) -> bool:
    return any(item is mark for item in program.keepalive or ())


def last_site(program: Any) -> int:
    """The call site that ended last in the program's last call, if it ran on the calling thread."""
    return getattr(program.in_handler, "last_site", 0)


class _ReadyInputs:
    """An input handler of JAX's (`pxla.InputsHandler`) that waits for what it has brought."""

    def __init__(self, handler: Any, program: Any):
        self._handler = handler
        self._effects = program.ordered_effects
        self._devices = program._local_devices
        self.last_site = 0
        self.is_run = has(program, Mark.IS_A_RUN)

    def __call__(self, args: Sequence[Any]) -> Any:
        inputs = self._handler(args)
        for array in inputs:
            if not _is_ready(array):
                array.block_until_ready()  # an input that has failed raises here, as it would later
        for effect in self._effects:
            token = dispatch.runtime_tokens.get_token_input(effect, self._devices)
            token.block_until_ready()
            # Brought to these devices, so that JAX does not copy it once more.
            dispatch.runtime_tokens.set_token_result(effect, token)
        return inputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)


def _is_ready(value: Any) -> bool:
    return type(value) is not ArrayImpl or value.is_deleted() or value.is_ready()


# -- failures that no result carries ---------------------------------------------------------------
def _nothing(*args: Any) -> None:
    return None


raise_unheard: Callable[[], None] = _nothing
_forget_unheard: Callable[[str], None] = _nothing


def set_unheard(raises: Callable[[], None], forget: Callable[[str], None]) -> None:
    """Sets what raises the failures that no result carries, and what forgets those in a text."""
    global raise_unheard, _forget_unheard
    raise_unheard, _forget_unheard = raises, forget


_TOKEN_ARGUMENTS = ["token_bufs", "sharded_token"]


def _wait_for_inputs() -> bool:
    """Wraps `pxla.ExecuteReplicated` (JAX 0.10 to 0.12), for programs that keep the mark.

    JAX keeps them off its C++ path, which is not for programs with effects; see calls.py.
    Where the class is not as expected, JAX's own way stays, and the wrapper is not installed.
    """
    program = pxla.ExecuteReplicated
    make, handle_tokens = program.__init__, getattr(program, "_handle_token_bufs", None)
    if (
        not {"in_handler", "keepalive", "ordered_effects", "has_unordered_effects"}
        <= set(program.__slots__)
        or not callable(handle_tokens)
        or list(inspect.signature(handle_tokens).parameters)[1:] != _TOKEN_ARGUMENTS
    ):
        return False

    @functools.wraps(make)
    def make_program(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        if has(self, Mark.ENDS_WITH_ITS_EFFECTS):
            self.in_handler = _ReadyInputs(self.in_handler, self)
            self.has_unordered_effects = True
        if has(self, Mark.CALLS_BACK):
            programs.look_at_results(self)

    @functools.wraps(handle_tokens)
    def wait_for_end(self: Any, token_bufs: Any, sharded_token: Any) -> None:
        if isinstance(self.in_handler, _ReadyInputs):
            # Raises what has failed: then no barrier finds these tokens, to raise it again.
            try:
                for i in range(len(self._local_devices)):
                    sharded_token.get_token(i).block_until_ready()
            except Exception as error:
                _forget_unheard(str(error))
                raise
            self.in_handler.last_site = _native.take_last_site()
        handle_tokens(self, token_bufs, sharded_token)

    program.__init__ = make_program  # type: ignore[method-assign]
    program._handle_token_bufs = wait_for_end  # type: ignore[method-assign]
    return True


waits_for_inputs = _wait_for_inputs()


def is_run(program: Any) -> bool:
    """Whether calls of the program are runs, by its mark."""
    handler = program.in_handler
    return type(handler) is _ReadyInputs and handler.is_run


def watch_runs(begin: Callable[[], int], end: Callable[..., None]) -> None:
    """Has `begin()` and `end(what that returned, results)` called around calls of marked programs.

    Without results if the call has failed. Where calls do not wait for their end, there are no runs.
    """
    program = pxla.ExecuteReplicated
    call = program.__call__
    if not waits_for_inputs:
        return

    @functools.wraps(call)
    def call_as_run(self: Any, *args: Any) -> Any:
        if not is_run(self):
            return call(self, *args)
        began, results = begin(), ()
        try:
            results = call(self, *args)
            return results
        finally:
            end(began, results)

    program.__call__ = call_as_run  # type: ignore[method-assign]
