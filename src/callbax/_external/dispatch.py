"""Calls for which the host side needs to know lanes: masks, threads, executors, batches of effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax

from callbax._callbacks.io import io_callback_over_batch
from callbax._callbacks.pure import pure_callback
from callbax._external.lanes import InTurn, LaneCall, Runner, Threads, Whole
from callbax._external.signature import is_constant
from callbax._host_call import HostCall
from callbax._host_function import HostFunction

if TYPE_CHECKING:
    from callbax._external.call import Call
    from callbax._external.options import Options


def is_needed(call: Call) -> bool:
    """Whether the runtime's own way of batching does not do."""
    options = call.external.options
    return call.masked or options.executor is not None or options.vmap_method == "threads"


def on_host(call: Call, function: HostFunction, leaves: Sequence[Any]) -> list[Any]:
    """Calls the host function lane by lane, in the way that its options say; flat results."""
    options = call.external.options
    for struct in call.result_structs:
        if not is_constant(struct.shape):
            raise ValueError(
                f"the result of {call.where} has the symbolic shape {struct.shape} here, but on threads "
                "and executors, and for call_where, only the shape of the batch may be symbolic"
            )
    args, kwargs = call.structure.unflatten(leaves[call.masked :])
    host_call, _ = HostCall.from_arguments(function, args, kwargs, result_tree=call.result_tree)
    lanes = LaneCall(
        host_call,
        _runner(options),
        call.structs,
        call.result_structs,
        call.masked,
        canonicalize=not jax.config.jax_enable_x64,
    )
    views = not lanes.runner.elsewhere
    function = HostFunction(lanes, views=views, masked=call.masked, wording=function.wording)
    spec = list(call.result_structs)
    if options.effects == "none":
        return pure_callback(function, spec, *leaves, vmap_method="expand_dims")
    ordered = options.effects == "ordered"
    # Lanes that are calls of their own have no place in one order of calls: `vmap` refuses them.
    method = "expand_dims" if options.whole_batch or not ordered else "sequential"
    return io_callback_over_batch(
        function, spec, tuple(leaves), {}, ordered=ordered, vmap_method=method
    )


_RUNNERS: dict[str, Runner] = {
    "sequential": InTurn(),
    "sequential_unrolled": InTurn(),
    "expand_dims": Whole(repeats=False),
    "broadcast_all": Whole(repeats=True),
    "threads": Threads(),
}


def _runner(options: Options) -> Runner:
    return options.executor or _RUNNERS[options.vmap_method]
