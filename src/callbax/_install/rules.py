"""The rules by which JAX's callback primitives run on callbax's runtime, in programs for CPU.

They stand in JAX's own tables in place of JAX's, so that they are met by whatever name a callback is
called. Each asks `state.arguments()` whether it applies; where it does not, or does not know what a
call says, JAX's rule answers.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from callbax import _jax
from callbax._callbacks import batching, lowering, primitives
from callbax._callbacks.batching import NO_LANES
from callbax._callbacks.flavours import JAX, Flavour
from callbax._install import emission, functions, state
from callbax._jax import jax_callbacks, reductions
from callbax._jax.jax_callbacks import JaxCall, JaxCallback, Replaced, UnexpectedCall
from callbax._runtime import failure_log
from callbax._runtime.errors import describe_function


def replace_all() -> list[Replaced]:
    """Puts the rules of all JAX's callbacks into JAX's tables."""
    replaced: list[Replaced] = []
    for callback in jax_callbacks.JAX_CALLBACKS:
        rules = _Rules(callback)
        failure_log.log_as_jax(rules.flavour.public_name, callback.logger)
        replaced += jax_callbacks.replace_lowering(callback.primitive, rules.lower)
        replaced.append(jax_callbacks.replace_batching(callback.primitive, rules.batch))
        replaced.append(Replaced(reductions.host_calls, callback.primitive, rules.describe))
        if rules.flavour.effect is not None and not rules.flavour.canonical_eager:
            replaced.append(jax_callbacks.replace_eager(callback.primitive, rules.call_eagerly))
    return [*replaced, *jax_callbacks.replace_emit(emission.emit_natively)]


def _flavour(callback: JaxCallback) -> Flavour:
    """Printing is debugging: JAX's words for it are the same."""
    return JAX.get(callback.name, JAX["jax.debug.callback"])


class _Rules:
    """The rules of one of JAX's callback primitives, with JAX's own behind them."""

    def __init__(self, callback: JaxCallback):
        self.flavour = _flavour(callback)
        self._callback = callback
        self._primitive = primitives.PRIMITIVES[self.flavour]
        self._jax_batch = jax_callbacks.batching_rule(callback.primitive)
        self._jax_eager = callback.primitive.impl

    def lower(self, jax_lower: Any, ctx: Any, *operands: Any, **params: Any) -> Any:
        call = self._read(params)
        if call is None or "cpu" not in ctx.module_context.platforms:
            return jax_lower(ctx, *operands, **params)
        params = self._params(call, len(operands))
        return lowering.lower(self.flavour, self._primitive, ctx, *operands, **params)

    def batch(self, axis: Any, args: Sequence[Any], dims: Sequence[Any], **params: Any) -> Any:
        """Lane by lane, as one call of the runtime's; all else as JAX does it, call by call."""
        call = self._read(params)
        if (
            call is None
            or not jax_callbacks.only_cpu()
            or all(d is None for d in dims)
            or (self.flavour.vmap_methods and call.vmap_method not in _LANE_BY_LANE)
            or (call.ordered and not self.flavour.vmap_ordered)
        ):
            return self._jax_batch(axis, args, dims, **params)
        params = self._params(call, len(args))
        return batching.batch(self.flavour, self._primitive, args, dims, **params)

    def call_eagerly(self, *args: Any, **params: Any) -> Any:
        """A debug callback outside of a compiled program: here and now, as JAX does it."""
        call = self._read(params)
        if (
            call is None
            or _gets_jax_arrays(call)
            or not jax_callbacks.only_cpu()
            or not all(map(_jax.is_plain, args))
        ):
            return self._jax_eager(*args, **params)
        function = functions.eager_function(call)
        values = [np.array(_jax.to_numpy(arg)) for arg in args]
        with jax_callbacks.around_debug_callback():
            try:
                function(*values)
            except BaseException as error:
                failure_log.log_failure(call.function, self.flavour.public_name, error)
                raise
        return ()

    def describe(self, params: dict[str, Any]) -> str:
        """For messages."""
        call = self._read(params)
        function = call.function if call is not None else None
        name = self._callback.name
        return f"{name} of {describe_function(function)}" if callable(function) else name

    def _read(self, params: dict[str, Any]) -> JaxCall | None:
        """What a call says, if it is callbax's to run."""
        if state.arguments() is None:
            return None
        try:
            return self._callback.read(params)
        except UnexpectedCall as surprise:
            _warn_once(self._callback.name, str(surprise))
            return None

    def _params(self, call: JaxCall, arrays: int) -> dict[str, Any]:
        """The parameters of callbax's primitive for the call."""
        return {
            "host_call": functions.host_call(
                call,
                arrays,
                as_jax=_gets_jax_arrays(call),
                is_debug=not self.flavour.canonical_eager,
            ),
            "result_avals": call.result_avals,
            "ordered": call.ordered,
            "partitioned": call.partitioned,
            "sharding": call.sharding,
            "vmap_method": call.vmap_method,
            "lanes": NO_LANES,
            "core_ranks": None,
        }


def _gets_jax_arrays(call: JaxCall) -> bool:
    return state.arguments() == "jax" or call.shows_arrays


_LANE_BY_LANE = ("sequential", "sequential_unrolled")


@functools.cache
def _warn_once(name: str, surprise: str) -> None:
    warnings.warn(
        f"callbax.install() leaves {name} to JAX: this version of JAX calls it with {surprise}, which "
        "this version of callbax does not know",
        RuntimeWarning,
        stacklevel=2,
    )
