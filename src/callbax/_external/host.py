"""From a call of an external function to the host: lanes, a rule for vmap, the flavour; eager calls."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.tree_util import PyTreeDef

from callbax import _jax
from callbax._callbacks import primitives
from callbax._callbacks.flavours import EXTERNAL
from callbax._external import masks
from callbax._external.call import Call, Definition, Rule, VmapRule
from callbax._external.executors import EXECUTOR
from callbax._external.lanes import InTurn, LaneCall, Runner, Threads, Whole
from callbax._external.options import ORDERED, Options
from callbax._external.signature import is_constant
from callbax._host import identity, offers, program_names
from callbax._host.call import HostCall
from callbax._host.function import Casting, Hashable, HostFunction
from callbax._host.structure import Structure
from callbax._jax import eager, placement
from callbax._runtime import surroundings
from callbax._runtime.errors import describe_function


def on_host(call: Call, leaves: Sequence[Any]) -> list[Any]:
    """Calls the host function, without derivative; flat results.

    They vary over devices as the arguments do.
    """
    function: Callable[..., list[Any]] = functools.partial(_bind, call)
    rule = call.definition.vmap_rule
    if rule is not None and not call.masked:
        function = _with_vmap_rule(call, rule, function)
    return placement.vary_alike(function(*leaves), leaves)


def _bind(call: Call, *leaves: Any) -> list[Any]:
    options = call.options
    core_ranks = [len(struct.shape) for struct in call.structs]
    if call.masked or options.executor is not None or options.vmap_method == "threads":
        host_call, vmap_method = _over_lanes(call, leaves)
        core_ranks = [0] * call.masked + core_ranks
    else:
        core_ranks = [rank - call.independent_dimensions for rank in core_ranks]
        function = call.definition.host_function
        # Without a result there is no structure to watch.
        result_tree = call.result_tree if call.result_structs else None
        host_call = HostCall.of(function, call.structure, result_tree)
        vmap_method = options.vmap_method
    return primitives.bind(
        EXTERNAL[options.effects],
        host_call,
        leaves,
        [_jax.ShapedArray(struct.shape, struct.dtype) for struct in call.result_structs],
        ordered=options.effects in ORDERED,
        vmap_method=vmap_method,
        core_ranks=tuple(core_ranks) if options.per_shard else None,
    )


def _over_lanes(call: Call, leaves: Sequence[Any]) -> tuple[HostCall, str]:
    """What is called for a batch whose lanes the host side has to know, and by which vmap_method."""
    options = call.options
    for struct in call.result_structs:
        if not is_constant(struct.shape):
            raise ValueError(
                f"the result of {call.where} has the symbolic shape {struct.shape} here, but on threads "
                "and executors, and for call_where, only the shape of the batch may be symbolic"
            )
    function = call.definition.host_function
    lanes = LaneCall(
        HostCall.of(function, call.structure, call.result_tree),
        options.executor or _RUNNERS[options.vmap_method],
        tuple(len(struct.shape) for struct in call.structs),
        call.result_structs,
        call.masked,
        canonicalize=not jax.config.jax_enable_x64,
    )
    function = HostFunction(
        lanes,
        views=not lanes.runner.elsewhere,
        masked=call.masked,
        external=function.external,
    )
    structure = Structure(jax.tree.structure((tuple(leaves), {})))
    # Lanes that are calls of their own have no place in one order of calls: `vmap` refuses them.
    is_refused = options.effects == "ordered" and not options.whole_batch
    return HostCall.of(function, structure), "sequential" if is_refused else "expand_dims"


_RUNNERS: dict[str, Runner] = {
    "sequential": InTurn(),
    "sequential_unrolled": InTurn(),
    "expand_dims": Whole(repeats=False),
    "broadcast_all": Whole(repeats=True),
    "threads": Threads(),
}


def _with_vmap_rule(
    call: Call, rule: VmapRule, function: Callable[..., list[Any]]
) -> Callable[..., list[Any]]:
    """`function(*leaves)`, which `vmap` replaces by the rule; flat results."""

    def batched(axis_size: int, in_batched: Any, *leaves: Any) -> Any:
        args, kwargs = call.structure.unflatten(leaves)
        flags, named_flags = call.structure.unflatten_without_static(in_batched)
        if jax.tree.leaves(named_flags):
            raise TypeError(
                f"{call.where} has a rule for vmap (def_vmap), which gets arrays by position only, but "
                f"the keyword-only arguments {sorted(named_flags)} hold arrays; make them positional"
            )
        returned = rule(axis_size, flags, *args, **kwargs)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(
                f"the rule for vmap (def_vmap) of {call.where} must return (out, out_batched), but "
                f"returned {returned!r}"
            )
        return _checked(call, axis_size, *returned)

    mapped = jax.custom_batching.custom_vmap(function)
    mapped.def_vmap(batched)
    return mapped


def _checked(call: Call, axis_size: int, out: Any, out_batched: Any) -> tuple[Any, Any]:
    leaves, tree = jax.tree.flatten(out)
    who = f"the rule for vmap (def_vmap) of {call.where}"
    if tree != call.result_tree:
        raise TypeError(
            f"{who} returned the structure {tree}, but the result has {call.result_tree}"
        )
    flags = [out_batched] * len(leaves)
    if not isinstance(out_batched, bool):
        flags, flags_tree = jax.tree.flatten(out_batched)
        if flags_tree != tree:
            raise TypeError(
                f"{who} returned out_batched of the structure {flags_tree}, but out has {tree}"
            )
    for i, (leaf, flag, struct) in enumerate(zip(leaves, flags, call.result_structs, strict=True)):
        shape = (axis_size, *struct.shape) if flag else struct.shape
        if jnp.shape(leaf) != shape or jnp.result_type(leaf) != struct.dtype:
            raise ValueError(
                f"{who} returned result {i} of shape {jnp.shape(leaf)} and dtype "
                f"{jnp.result_type(leaf)}, but {shape} and {struct.dtype} are expected where "
                f"out_batched is {bool(flag)}"
            )
    return [jnp.asarray(leaf) for leaf in leaves], [bool(flag) for flag in flags]


# -- eager calls, compiled as a whole -----------------------------------------------------------------
# Makes an External.
Make = Callable[[Callable[..., Any], Options], Any]


def eager_call(
    make: Make, definition: Definition, args: Any, kwargs: Any
) -> Callable[[], Any] | None:
    """The call as one program; None where something is traced, or an argument is no plain array."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    if masks.current() is not None or not eager.is_eager(leaves):
        return None
    name = EXTERNAL[definition.options.effects].name
    key = (make, *definition.key, tree, surroundings.configuration())
    return functools.partial(eager.program(name, _program, *key), *leaves)


def _program(
    make: Make,
    function: Hashable,
    options: Hashable,
    rules: tuple[Rule, ...],
    vmap_rule: Hashable,
    tree: PyTreeDef,
    _configuration: str,
) -> Callable[..., Any]:
    """What is compiled. It is kept for long, but keeps no External, which may have a name to itself."""

    def run(*leaves: Any) -> Any:
        external = make(function.value, options.value)
        external.definition = dataclasses.replace(
            external.definition, rules=rules, vmap_rule=vmap_rule.value
        )
        args, kwargs = jax.tree.unflatten(tree, leaves)
        return external._call(None, args, kwargs)[0]  # not eager, also where jit is disabled

    return run


# -- LaneCalls by their names in programs (see _host/names.py) ---------------------------------------
# {"lanes": "threads", "of": {"function": "my.models:step", "structure": ...}, ...}: how the lanes run,
# and what is called for each. An executor is that of the external function in this process.
_MAX_RANK = 256  # more than arrays have


def _find_lanes(name: dict[str, Any]) -> LaneCall:
    called = name.get("of")
    if not isinstance(called, dict) or "lanes" in called:
        raise LookupError(f"{program_names.write(name)[:200]} is not the name of lanes")
    casting: Any = program_names.string(name, "casting")
    if casting not in get_args(Casting):
        raise LookupError(f"{casting!r} is not a way to convert results")
    host_call = dataclasses.replace(
        identity.find_call(called),
        views=program_names.flag(name, "views"),
        casting=casting,
        external=program_names.string(name, "external"),
    )
    ranks = program_names.numbers(name, "ranks", _MAX_RANK)
    results = program_names.read_structs(name, "results")
    if len(ranks) != host_call.structure.arrays:
        raise LookupError(f"{program_names.write(name)[:200]} is not the name of lanes")
    masked, canonicalize = (program_names.flag(name, key) for key in ("masked", "canonicalize"))
    runner = _runner(program_names.string(name, "lanes"), called)
    return LaneCall(host_call, runner, ranks, results, masked, canonicalize)


def _runner(name: str, called: dict[str, Any]) -> Runner:
    if name in _RUNNERS:
        return _RUNNERS[name]
    if name != EXECUTOR:
        raise LookupError(f"{name!r} is not a way to run lanes")
    owner = _owner(called)
    function = identity.referred(owner)
    what = f"the executor of {describe_function(function)}"
    missing = (
        "which this process does not have. Import the module that gives it one, with "
        "callbax.external(executor=...)."
    )
    found: Runner = offers.find((name, id(function), owner.get("named")), what, missing)
    return found


def _owner(called: dict[str, Any]) -> dict[str, Any]:
    """How a name of what runs for each lane refers to the user's function."""
    owner: Any = called
    while isinstance(owner, dict) and "function" not in owner and "named" not in owner:
        owner = next((owner[key] for key in ("of", "complex", "result_of") if key in owner), None)
    if not isinstance(owner, dict):
        raise LookupError(f"{program_names.write(called)[:200]} is not the name of a function")
    return owner


identity.add_kind("lanes", _find_lanes)
