"""Autodiff, checkpoint and dead code rules of every flavour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from callbax import _jax
from callbax._callbacks.flavours import Flavour
from callbax._host.call import HostCall
from callbax._runtime.wrapper import without_last_result


def jvp(flavour: Flavour, primitive: Any, primals: Any, tangents: Any, **params: Any) -> Any:
    """Reached only if some argument has a tangent."""
    if not flavour.differentiable:
        raise ValueError(flavour.jvp_error.format(call=params["host_call"]))
    results = primitive.bind(*primals, **params)
    return results, [_jax.zero_tangent(result) for result in results]


def transpose(flavour: Flavour, primitive: Any, cotangents: Any, *args: Any, **params: Any) -> Any:
    if not flavour.differentiable:
        raise ValueError(flavour.transpose_error.format(call=params["host_call"]))
    return [None for _ in args]


def checkpoint(
    flavour: Flavour,
    primitive: Any,
    saveable: Any,
    unknown: Any,
    instantiated: Any,
    equation: Any,
) -> Any:
    """Which of the two passes of a checkpointed function runs a callback that only looks on.

    Returns JAX's (known equation, staged equation, unknown and instantiated outputs, residuals).
    """
    results = len(equation.outvars)
    if any(unknown):
        # Some argument exists only in the second pass, so the callback runs there.
        residuals = [v for v, is_in in zip(equation.invars, instantiated, strict=True) if not is_in]
        return None, equation, [True] * results, [True] * results, residuals
    if not flavour.recomputed:
        # Its results are kept, where the second pass needs them.
        return equation, None, [False] * results, [False] * results, []
    avals = [v.aval for v in equation.invars]
    if saveable(primitive, *avals, **equation.params) and not all(instantiated):
        # Running it again would make the second pass keep or recompute more than it does.
        return equation, None, [], [], []
    return equation, equation, [], [], []


def eliminate(used: Sequence[bool], equation: Any) -> tuple[list[bool], Any]:
    """What is left of a pure call: nothing if no result is used; or a call that does without the last.

    Returns which arguments are used, and the equation, or None.
    """
    if not any(used):
        return [False] * len(equation.invars), None
    if not used[-1] and (params := _without_last_result(**equation.params)):
        equation = equation.replace(outvars=equation.outvars[:-1], params=params)
    return [True] * len(equation.invars), equation


def _without_last_result(host_call: HostCall, result_avals: Any, **params: Any) -> dict[str, Any]:
    """The parameters of the call that does without; empty if there is none."""
    shorter = without_last_result(host_call.function)
    if shorter is None:
        return {}
    host_call = host_call.with_function(shorter)
    return {**params, "host_call": host_call, "result_avals": result_avals[:-1]}
