"""The gateway's part for calls of programs whose effects are all callbax's: the fast path of JAX.

JAX (0.10 to 0.12) calls a compiled program from C++, unless it has effects: their order and their end
are then kept by tokens, in Python, at 50 to 400 us a call. On one device callbax needs neither. XLA
runs the programs that a thread sends to a CPU device in the order in which they come, and a call waits
here for the end of its program. So `pjit._get_fastpath_data`, which decides, is wrapped: for a program
that keeps the mark of such a call it is asked once more, as if there were no effects. What it
answers is changed in two places.

- The tree of the results is of a class of this file's, so that JAX asks it, at each call, to put
  the results together: there the call waits (`finish_call`). XLA's CPU client runs a program either
  to its end on the thread that calls it, or on threads of its own. So if the callback that ended last
  on this thread is of this program, the program has ended, too, and nothing is asked of XLA.
- An ordered program takes and gives a token. One that is ready serves for all calls.

The same is done for programs that were compiled ahead of time. Several devices, JAX's own callbacks
in the same program, and other effects keep to JAX's way, and so does everything if JAX is not made as
expected here, or if the trial, on the first program, does not give what it should.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import core, pjit, stages, tree_util
from jax._src.interpreters import pxla
from jax._src.lib import _jax as _jaxlib
from jax.sharding import SingleDeviceSharding

from callbax import _native
from callbax._jax import runtime


class _Plan(NamedTuple):
    """What a call does with its flat results."""

    results: Any  # the tree of those that the user gets; None: it is one array
    tokens: int  # how many come before them
    site: int  # the call site that ends last, if XLA runs the program on the calling thread; or 0
    wait: Callable[[Sequence[Any]], None]  # waits for the end of a call with these results


class _Results:
    """The results of a call, its tokens first, as JAX takes them apart and puts them together."""

    def __init__(self, leaves: Sequence[Any], plan: _Plan):
        self.leaves, self.plan = leaves, plan


_ONE_ARRAY = tree_util.tree_structure(0)
tree_util.register_pytree_node(
    _Results, lambda results: (results.leaves, results.plan), _native.finish_call
)


def _without_effects(executable: Any) -> Any:
    """A copy of the executable that JAX takes for one of a program without effects."""
    plain, call = copy.copy(executable), copy.copy(executable.unsafe_call)
    call.ordered_effects, call.has_unordered_effects = [], False
    plain._unsafe_call = call
    return plain


def _with_waiting(data: Any, device: Any, tokens: int, site: int, *, waits: bool = True) -> Any:
    """JAX's data for calls, so that they wait, and that tokens go in and out before the rest."""
    results = data.out_pytree_def
    wait = functools.partial(_wait_for, device) if waits else _do_not_wait
    plan = _Plan(None if results == _ONE_ARRAY else results, tokens, site, wait)
    leaves = [0] * (results.num_leaves + tokens)
    data = data._replace(
        out_pytree_def=tree_util.dispatch_registry.flatten(_Results(leaves, plan))[1]
    )
    if not tokens:
        return data
    place = SingleDeviceSharding(device)
    first = {
        "in_shardings": place,
        "out_shardings": place,
        "out_avals": core.ShapedArray((0,), np.dtype(bool)),
        "out_committed": False,
        "kept_var_bitvec": True,
        "in_device_local_layouts": None,
        "const_args": jax.device_put(np.zeros((0,), bool), device),
    }
    return data._replace(
        **{field: [item] * tokens + list(getattr(data, field)) for field, item in first.items()}
    )


# -- waiting for a program without results ---------------------------------------------------------
def _in_fresh_thread(function: Callable[[], Any]) -> Any:
    """Runs `function` where no trace, no settings and no default device of the caller's are in force."""
    with futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@functools.cache
def _probe(device: Any) -> Callable[[], Any]:
    """A trivial program on the device, which ends after all that its thread has sent there before."""

    def compiled() -> Any:
        argument = jax.device_put(np.zeros((), bool), device)
        program = jax.jit(lambda x: ~x).lower(argument).compile()
        return functools.partial(program, argument)

    return _in_fresh_thread(compiled)  # type: ignore[no-any-return]


def _wait_for(device: Any, results: Sequence[Any]) -> None:
    """Waits for the end of the call with these results, and raises what has failed in it."""
    if results:
        results[0].block_until_ready()
        return
    _probe(device)().block_until_ready()
    runtime.raise_unheard()


def _do_not_wait(results: Sequence[Any]) -> None:
    """All effects of the program are detached: called in order, by a thread that barriers wait for."""


# -- which programs --------------------------------------------------------------------------------
# What kinds of effects a program may have: unordered ones, and ordered ones.
_allowed: tuple[frozenset[Any], frozenset[Any]] = frozenset(), frozenset()
_targets: frozenset[str] = frozenset()  # callbax's own


def _is_ours(executable: Any) -> bool:
    """Whether all effects of the program are callbax's, and it runs on the one device that it needs."""
    if not isinstance(executable, pxla.MeshExecutable):
        return False
    call = executable.unsafe_call
    if not isinstance(call, pxla.ExecuteReplicated) or len(call._local_devices) != 1:
        return False
    program = executable._unloaded_executable
    unordered, ordered = _allowed
    return (
        (_waits(call) or runtime.has(call, runtime.Mark.HAS_DETACHED_EFFECTS))
        and not runtime.has(call, runtime.Mark.IS_A_RUN)
        and not program.host_callbacks
        and (program.output_avals or not runtime.has(call, runtime.Mark.CALLS_LOADED_PROGRAM))
        and ordered.issuperset(call.ordered_effects)
        and unordered.issuperset(program.unordered_effects)
        # The order of calls on several devices is kept by tokens that are brought from one to the next.
        and (not call.ordered_effects or call._local_devices[0].client.device_count() == 1)
    )


def _waits(call: Any) -> bool:
    return runtime.has(call, runtime.Mark.ENDS_WITH_ITS_EFFECTS)


def _calls_only_us(executable: Any) -> bool:
    """Whether no call in the program can fail unheard by callbax, after the site that ends last.

    That site would stay known to the thread, and its next call would be taken for one that has ended.
    """
    try:
        text = "".join(module.to_string() for module in executable.xla_executable.hlo_modules())
    except Exception:  # noqa: BLE001 - a program that does not tell is waited for at each call
        return False
    return _targets.issuperset(re.findall(r'custom_call_target="([^"]*)"', text))


_get_data = pjit._get_fastpath_data
_create_call = pxla.MeshExecutable.create_cpp_call


@functools.wraps(_get_data)
def _get_fastpath_data(executable: Any, *args: Any, **kwargs: Any) -> Any:
    data = _get_data(executable, *args, **kwargs)
    if data is not None or not _is_ours(executable) or trial():
        return data
    data = _get_data(_without_effects(executable), *args, **kwargs)
    if data is None:
        return None
    call = executable.unsafe_call
    tokens, waits = len(call.ordered_effects), _waits(call)
    if not tokens and not waits:
        return data
    site = runtime.last_site(call) if waits else 0
    if site and not _calls_only_us(executable):
        site = 0
    return _with_waiting(data, call._local_devices[0], tokens, site, waits=waits)


@functools.wraps(_create_call)
def _create_cpp_call(self: Any, params: Any) -> Any:
    """For a program that was compiled ahead of time: the same data, asked for at its first call."""
    created = _create_call(self, params)
    if created is not None or not _is_ours(self) or trial() or params.is_high:
        return created
    params = params._replace(const_args=self.shard_const_args(params.const_args))

    def first_call(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool]:
        results, flat_results, flat = stages.Compiled.call(params, *args, **kwargs)
        data = _get_fastpath_data(
            self, params.out_tree, flat, flat_results, (), (), None, params.const_args
        )
        return results, data, False

    return _jit(self.unsafe_call.name, first_call)


def _jit(name: str, first_call: Callable[..., Any]) -> Any:
    """A function that JAX calls from C++, once `first_call` has given it the data."""
    keys = pxla.JitGlobalCppCacheKeys()
    registry = tree_util.dispatch_registry
    return _jaxlib.pjit(name, None, first_call, [], [], keys, registry, pxla.cc_shard_arg)


# -- whether JAX is as expected --------------------------------------------------------------------
_FIELDS = {
    "out_pytree_def",
    "in_shardings",
    "out_shardings",
    "out_avals",
    "out_committed",
    "kept_var_bitvec",
    "in_device_local_layouts",
    "const_args",
}
_PARAMETERS = (
    ["executable", "out_tree", "args_flat", "out_flat", "effects", "consts_for_constvars"]
    + ["pgle_profiler", "const_args"]
)  # fmt: skip


def install(unordered: frozenset[Any], ordered: frozenset[Any], targets: frozenset[str]) -> None:
    """Wraps JAX's two functions, for programs with no other effects than these.

    The targets are those of callbax's calls.

    Where they are not as expected, they stay as they are, and `trial` says why.
    """
    global _allowed, _targets
    if _refusal():
        return
    _allowed, _targets = (unordered, ordered), targets
    pjit._get_fastpath_data = _get_fastpath_data
    pxla.MeshExecutable.create_cpp_call = _create_cpp_call  # type: ignore[method-assign]


def _refusal() -> str:
    """Why calls keep to JAX's way: what is not as expected; or nothing."""
    if not runtime.waits_for_inputs:
        return "calls do not wait for their inputs"
    if list(inspect.signature(_get_data).parameters) != _PARAMETERS:
        return "pjit._get_fastpath_data has other parameters"
    if not set(pxla.MeshExecutableFastpathData._fields) >= _FIELDS:
        return "pxla.MeshExecutableFastpathData has other fields"
    if "_unsafe_call" not in pxla.MeshExecutable.__slots__:
        return "pxla.MeshExecutable is another class"
    return ""


@functools.cache
def trial() -> str:
    """Calls a program with a token by way of C++. Returns what was not as expected, or nothing."""
    try:
        return _refusal() or _in_fresh_thread(_try)
    except Exception as error:  # noqa: BLE001 - whatever it is, JAX's own way stays
        return f"{type(error).__name__}: {error}"


def _try() -> str:
    device = jax.local_devices(backend="cpu")[0]
    arguments = [jax.device_put(value, device) for value in (np.zeros((0,), bool), np.zeros(2))]
    compiled = jax.jit(lambda token, x: (token, x + 1)).lower(*arguments).compile()
    executable = compiled._executable
    calls = []

    def first_call(x: Any) -> tuple[Any, Any, bool]:
        calls.append(x)
        token, result = results = executable.call(arguments[0], x)
        tree = jax.tree.structure(tuple(results))
        data = _get_data(executable, tree, (arguments[0], x), list(results), (), (), None, ())
        token_data = {name: list(getattr(data, name))[1:] for name in _FIELDS - {"out_pytree_def"}}
        token_data["const_args"] = []
        one = tree_util.dispatch_registry.flatten([result])[1]
        data = data._replace(out_pytree_def=one, **token_data)
        return [result], _with_waiting(data, device, 1, 0), False

    call = _jit("trial", first_call)
    # Indexed by NumPy, since JAX would compile programs for it.
    inputs = [jax.device_put(np.full(2, float(i)), device) for i in range(3)]
    values = [float(np.asarray(call(x)[0])[1]) for x in inputs]
    if len(calls) != 1 or values != [1.0, 2.0, 3.0]:
        return f"a call by way of C++ gave {values} after {len(calls)} by way of Python"
    return ""
