"""One JAX primitive for each flavour; all share their rules.

Parameters of each: `host_call`, `result_avals`, `ordered`, `partitioned`, `sharding`, `vmap_method`,
`lanes`, and `core_ranks`: None, or, of a call per shard, how many dimensions of each operand are not
of the batch. Equal calls have equal parameters, so nothing is traced or compiled twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax.tree_util import PyTreeDef

from callbax import _jax
from callbax._callbacks import autodiff, batching, informed, lowering
from callbax._callbacks.batching import NO_LANES, Lanes
from callbax._callbacks.flavours import FLAVOURS, Flavour
from callbax._callbacks.results import avals_of, check_callable, structs_of
from callbax._host.call import HostCall
from callbax._host.function import Hashable
from callbax._host.structure import Structure
from callbax._jax import control_flow, eager, live_lanes, per_shard, reductions, while_loops
from callbax._runtime import detached, errors, failure_log, failures, surroundings


def _abstract_eval(
    flavour: Flavour,
    *avals: Any,
    result_avals: Any,
    ordered: bool,
    core_ranks: Any,
    lanes: Lanes,
    **_: Any,
) -> Any:
    if core_ranks and per_shard.is_distributed(avals):
        result_avals = _distributed(avals, result_avals, lanes.in_front(avals, core_ranks))
    return result_avals, flavour.effects(ordered)


def _distributed(avals: Any, result_avals: Any, batch: per_shard.Batch) -> Any:
    """Results that are distributed as the operands' types say."""
    return [
        aval.update(sharding=per_shard.distributed_as(avals, batch, aval.ndim))
        for aval in result_avals
    ]


def _call_directly(
    flavour: Flavour, *args: Any, host_call: HostCall, lanes: Lanes, ordered: bool, **_: Any
) -> Any:
    """An eager call that has no result: the host function runs here and now."""
    if ordered:
        detached.wait()
    arrays = [_jax.to_numpy(arg) for arg in args]
    for number, lane in enumerate(lanes.split(arrays)):
        shapes = errors.describe_arrays(lane)  # the function may change its arguments
        try:
            host_call(*lane)
        except BaseException as error:
            failures.hide_our_frames(error)
            callback = failure_log.describe(host_call)
            number, sizes = errors.outermost_first(number, lanes.sizes)
            place = errors.describe_lanes(callback, sizes, number)
            if not errors.notes_its_calls(host_call):
                errors.note_call(error, callback, place, shapes)
            failure_log.log_failure(host_call, flavour.public_name, error)
            raise
    return []


def _define(flavour: Flavour) -> Any:
    primitive = _jax.Primitive(flavour.name)
    primitive.multiple_results = True
    primitive.def_effectful_abstract_eval(partial(_abstract_eval, flavour))
    if flavour.canonical_eager:
        primitive.def_impl(partial(_jax.apply_primitive, primitive))
        _jax.require_devices_in_lowering(primitive)
    else:
        if flavour.informed:
            _jax.require_devices_in_lowering(primitive)
        primitive.def_impl(partial(_call_directly, flavour))
        _jax.call_per_shard_when_eager(primitive)
    _jax.primitive_jvps[primitive] = partial(autodiff.jvp, flavour, primitive)
    _jax.primitive_transposes[primitive] = partial(autodiff.transpose, flavour, primitive)
    _jax.primitive_batchers[primitive] = partial(batching.batch, flavour, primitive)
    if flavour.saveable:
        _jax.partial_eval_custom_rules[primitive] = partial(autodiff.checkpoint, flavour, primitive)
        _jax.register_discharge(primitive)
        _jax.consumes_no_keys(primitive)
    if flavour.effect is None:
        _jax.register_dead_code_rule(primitive, autodiff.eliminate)
        name = errors.full_name(flavour.public_name)
        reductions.host_calls[primitive] = lambda params: f"{name} of {params['host_call']}"
    if flavour.effect is not None and not flavour.of_jax:
        control_flow.keep_effects(primitive, batching.IN_CONTROL_FLOW)
    if flavour.masked_operand is not None:
        live_lanes.masked[primitive] = flavour.masked_operand
    lower = partial(lowering.lower, flavour, primitive)
    rule = partial(informed.lower, primitive, lower) if flavour.informed else lower
    # As JAX has it for its own: a function for each call, and a call of it, take longer to write.
    _jax.register_lowering(primitive, rule, cacheable=False)
    return primitive


PRIMITIVES = {flavour: _define(flavour) for flavour in FLAVOURS}
while_loops.keep_effects_in_while_loops()
live_lanes.mask_conditions_and_loops()
reductions.refuse_host_calls()


def bind(
    flavour: Flavour,
    host_call: HostCall,
    values: Sequence[Any],
    result_avals: Sequence[Any] = (),
    *,
    ordered: bool = False,
    partitioned: bool = False,
    sharding: Any = None,
    vmap_method: str | None = None,
    core_ranks: tuple[int, ...] | None = None,
) -> list[Any]:
    """Applies the flavour's primitive; returns the results as a flat list."""
    return PRIMITIVES[flavour].bind(
        *values,
        host_call=host_call,
        result_avals=tuple(result_avals),
        ordered=ordered,
        partitioned=partitioned,
        sharding=sharding,
        vmap_method=vmap_method,
        lanes=NO_LANES,
        core_ranks=core_ranks,
    )


def call(
    flavour: Flavour,
    callback: Callable[..., Any],
    result_shape_dtypes: Any,
    args: Any,
    kwargs: Any,
    **options: Any,
) -> Any:
    """`callback(*args, **kwargs)` by the flavour's primitive, with the options of `bind`."""
    check_callable(flavour.public_name, callback)
    values, tree = jax.tree.flatten((args, kwargs))
    results, result_tree = jax.tree.flatten(result_shape_dtypes)
    call = (
        flavour,
        Hashable(callback),
        Structure(tree),
        result_tree,
        surroundings.configuration(),
        *options.items(),
    )
    structs = structs_of(results) if eager.is_eager(values) else None
    if structs is not None:
        return eager.program(flavour.name, _prepare, structs, *call)(*values)
    if jax.ShapeDtypeStruct in map(type, values):  # to JAX a constant, which it refuses too late
        raise TypeError(_not_arrays(flavour, callback, tree, values))
    try:
        return _prepare(results, *call)(*values)
    except TypeError as error:
        message = _not_arrays(flavour, callback, tree, values)
        if message:
            error.add_note(message)
        raise


def _not_arrays(flavour: Flavour, callback: Any, tree: PyTreeDef, values: Sequence[Any]) -> str:
    """Which arguments cannot be some, and what to do with them."""
    wrong = [
        name
        for name, value in zip(Structure(tree).names(()), values, strict=True)
        if isinstance(value, jax.ShapeDtypeStruct) or not _jax.is_array_like(value)
    ]
    if not wrong:
        return ""
    return (
        f"{errors.full_name(flavour.public_name)}: {', '.join(wrong)} of "
        f"{errors.describe_function(callback)} cannot be an argument, as it is not an array. Give it "
        "to the callback by a closure or functools.partial. (Arguments of the callback are all that "
        "comes after the description of its result, and options that are misspelt.)"
    )


def _prepare(
    results: Sequence[Any],
    flavour: Flavour,
    callback: Hashable,
    structure: Structure,
    result_tree: PyTreeDef,
    configuration: str,
    *options: tuple[str, Any],
) -> Callable[..., Any]:
    """The call as a function of flat values: eager calls compile it, once."""
    avals = avals_of(results, callback.value)
    host_call = HostCall.of(callback.value, structure, result_tree, configuration)

    def run(*values: Any) -> Any:
        results = bind(flavour, host_call, values, avals, **dict(options))
        return jax.tree.unflatten(result_tree, results)

    return run
