"""Callbacks for looking into a program, under the names of `jax.debug`."""

from jax.debug import DebugEffect as DebugEffect
from jax.debug import OrderedDebugEffect as OrderedDebugEffect
from jax.debug import inspect_array_sharding as inspect_array_sharding
from jax.debug import visualize_array_sharding as visualize_array_sharding
from jax.debug import visualize_sharding as visualize_sharding

from callbax._callbacks.breakpoint import debug_breakpoint as breakpoint
from callbax._callbacks.debug import debug_callback as callback
from callbax._callbacks.debug import debug_log as log
from callbax._callbacks.debug import debug_print as print
from callbax._callbacks.gradients import on_gradient as on_gradient
from callbax._callbacks.watch import Batch as Batch
from callbax._callbacks.watch import watch as watch

__all__ = [
    "Batch",
    "DebugEffect",
    "OrderedDebugEffect",
    "breakpoint",
    "callback",
    "inspect_array_sharding",
    "log",
    "on_gradient",
    "print",
    "visualize_array_sharding",
    "visualize_sharding",
    "watch",
]


def __dir__() -> list[str]:
    return __all__
