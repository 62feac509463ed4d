"""A tap: a call for its side effect, and the values that have been tapped.

The call has an effect and no result. The values go through a primitive that does nothing, but that
linear functions are transposed by: their cotangents are tapped as well.
"""

from __future__ import annotations

from typing import Any

import jax

from callbax import _jax
from callbax._callbacks import primitives
from callbax._callbacks.flavours import TAP
from callbax._host.call import HostCall
from callbax._host_callback.functions import Tap
from callbax._jax.host_callback import define_identity

_tapped = _jax.Primitive("tapped")


def tap(function: Tap, arg: Any) -> Any:
    """Calls the tap function with `arg`, a pytree of arrays; returns it, as arrays."""
    host_call, values = HostCall.from_arguments(function, (arg,), {})
    primitives.bind(TAP, host_call, values, ordered=True)
    structure = jax.tree.structure(arg)
    return structure.unflatten(_tapped.bind(*values, function=function, structure=structure))


def _transpose(*cotangents: Any, function: Tap, structure: Any) -> list[Any]:
    return jax.tree.leaves(tap(function.transposed(), structure.unflatten(cotangents)))


def _batch(values: Any, dims: Any, *, function: Tap, structure: Any) -> Any:
    function = function.batched(tuple(dims))
    return _tapped.bind(*values, function=function, structure=structure), dims


define_identity(_tapped, _transpose)
_jax.primitive_batchers[_tapped] = _batch
_jax.register_lowering(_tapped, lambda ctx, *operands, **_: operands)
