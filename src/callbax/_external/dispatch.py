"""Calls for which the host side needs to know lanes: masks, threads, executors, batches of effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax

from callbax._callbacks.io import io_callback_over_batch
from callbax._callbacks.pure import pure_callback
from callbax._external.lanes import InTurn, LaneCall, LaneFunction, Runner, Threads, Whole
from callbax._host_function import Hashable, HostFunction, Wording

if TYPE_CHECKING:
    from callbax._external.call import Call
    from callbax._external.options import Options


def is_needed(call: Call) -> bool:
    """Whether the runtime's own way of batching does not do."""
    options = call.external.options
    return call.masked or options.executor is not None or options.vmap_method == "threads"


def on_host(call: Call, leaves: Sequence[Any], wording: Wording) -> list[Any]:
    """Calls the host function lane by lane, in the way that its options say; flat results.

    Args:
      wording: how messages speak of the call.
    """
    options = call.external.options
    lanes = LaneCall(
        LaneFunction(
            Hashable(call.function),
            call.structure,
            call.result_tree,
            zero_copy=options.zero_copy,
            out=options.out,
        ),
        _runner(options),
        call.structs,
        call.result_structs,
        call.masked,
        canonicalize=not jax.config.jax_enable_x64,
        cast=call.external.narrows,
        wording=wording,
    )
    function, spec = (
        HostFunction(lanes, views=lanes.runner.views, masked=call.masked, wording=wording),
        list(call.result_structs),
    )
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
