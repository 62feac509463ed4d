"""Effects in JAX's while loops: the part of the gateway that sees to them.

Under linearisation: a loop of unknown length cannot keep residuals, so JAX linearises it in two loops
(`_while_partial_eval`): one computes what is known, the other, in the linear function, computes all of
it once more, with the tangents. So a callback runs in both, and the second time may give other values.
The known loop has made the calls; here the other does without them. If it needs what a callback
returned, that is an error.

Under `vmap`, in which lanes may end at different steps: where the condition has an ordered effect, JAX
forgets to keep the state of lanes that have ended (`_while_lowering`), and they go on until all have.
Here they stop.

Used for loops that hold callbax's primitives only, and only while JAX has the functions that this was
written for (JAX 0.10.0 to 0.12.0).
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from typing import Any

import jax
from jax._src import core, effects
from jax._src.interpreters import mlir
from jax._src.interpreters import partial_eval as _partial_eval
from jax._src.lax.control_flow import loops

from callbax._jax import control_flow

# In JAX 0.12.0.1 these are one class.
_ClosedJaxpr = getattr(core, "ClosedJaxpr", core.Jaxpr)


class _Restaging:
    """A trace of JAX's that stages another loop than it is told to."""

    def __init__(self, trace: Any, params: dict[str, Any]):
        self._trace = trace
        self._params = params

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)

    def default_process_primitive(self, primitive: Any, tracers: Any, _: Any) -> Any:
        return self._trace.default_process_primitive(primitive, tracers, self._params)


def keep_effects_in_while_loops() -> None:
    """Makes linearised loops run each callback once, and batched loops end each lane by itself."""
    _call_in_the_known_loop_only()
    _end_each_lane_by_itself()


def _end_each_lane_by_itself() -> None:
    rule: Any = getattr(loops, "_while_lowering", None)
    expected = ["ctx", "args", "cond_jaxpr", "body_jaxpr", "cond_nconsts", "body_nconsts"]
    if rule is None or list(inspect.signature(rule).parameters) != expected:
        return

    def lower(ctx: Any, *args: Any, **params: Any) -> Any:
        cond_jaxpr = params["cond_jaxpr"]
        ordered = effects.ordered_effects.filter_in(cond_jaxpr.effects)
        has_lanes = cond_jaxpr.out_avals[0].shape
        if not (ordered and has_lanes and control_flow.effects_in(cond_jaxpr.jaxpr)):
            return rule(ctx, *args, **params)
        return mlir.lower_fun(lambda *args: _loop_over_lanes(*args, **params))(ctx, *args)

    mlir.register_lowering(loops.while_p, lower)


def _loop_over_lanes(
    *args: Any, cond_jaxpr: Any, body_jaxpr: Any, cond_nconsts: int, body_nconsts: int
) -> Any:
    """The loop whose condition has one value for each lane, in front of the axes of the state."""
    of_cond, of_body = args[:cond_nconsts], args[cond_nconsts : cond_nconsts + body_nconsts]

    def running(state: Sequence[Any]) -> Any:
        return core.jaxpr_as_fun(cond_jaxpr)(*of_cond, *state)[0]

    def step(loop: Any) -> Any:
        lanes, state = loop
        new = core.jaxpr_as_fun(body_jaxpr)(*of_body, *state)
        kept = [
            jax.lax.select(jax.lax.broadcast_in_dim(lanes, y.shape, range(lanes.ndim)), y, x)
            for x, y in zip(state, new, strict=True)
        ]
        return running(kept), kept

    start = list(args[cond_nconsts + body_nconsts :])
    return jax.lax.while_loop(lambda loop: loop[0].any(), step, (running(start), start))[1]


def _call_in_the_known_loop_only() -> None:
    rules = _partial_eval.custom_partial_eval_rules
    rule: Any = rules[loops.while_p]
    expected = ["trace", "tracers", "cond_nconsts", "cond_jaxpr", "body_nconsts", "body_jaxpr"]
    if list(inspect.signature(rule).parameters) != expected:
        return

    def split(trace: Any, *tracers: Any, **params: Any) -> Any:
        programs = (params["cond_jaxpr"], params["body_jaxpr"])
        if any(control_flow.effects_in(program.jaxpr) for program in programs):
            staged = _staged_loop([not tracer.is_known() for tracer in tracers], **params)
            if staged is not None:
                return rule(_Restaging(trace, staged), *tracers, **params)
        return rule(trace, *tracers, **params)

    rules[loops.while_p] = split


def _staged_loop(
    unknown: Sequence[bool], cond_nconsts: int, cond_jaxpr: Any, body_nconsts: int, body_jaxpr: Any
) -> dict[str, Any] | None:
    """The loop of the linear function, without the calls of the known one; None if there is but one."""
    if all(unknown) or not any(unknown):
        return None
    of_cond = list(unknown[:cond_nconsts])
    of_body = list(unknown[cond_nconsts : cond_nconsts + body_nconsts])
    carry = list(unknown[cond_nconsts + body_nconsts :])
    while True:
        known, other, grown, residuals = _partial_eval.partial_eval_jaxpr_nounits(
            body_jaxpr, of_body + carry, instantiate=carry
        )
        if list(grown) == carry:
            break
        carry = list(map(operator.or_, carry, grown))
    cond_unknown = _partial_eval.partial_eval_jaxpr_nounits(
        cond_jaxpr, of_cond + carry, instantiate=False
    )[2]
    if cond_unknown[0]:
        return None
    if not any(carry):
        return {  # nothing uses it; without an effect JAX drops it
            "cond_nconsts": cond_nconsts,
            "cond_jaxpr": _declaring_nothing(cond_jaxpr),
            "body_nconsts": body_nconsts,
            "body_jaxpr": _declaring_nothing(body_jaxpr),
        }
    consts = of_body.count(False)
    from_cond = _inputs_used(cond_jaxpr.jaxpr, [True])[cond_nconsts:]
    in_condition = [
        used for used, is_unknown in zip(from_cond, carry, strict=True) if not is_unknown
    ]
    known = _without_calls(_keeping_what_is_needed(known, consts, in_condition))

    def body(*values: Any) -> list[Any]:
        pairs = list(zip(of_body + carry, values, strict=True))
        outs = core.jaxpr_as_fun(known)(*(value for is_unknown, value in pairs if not is_unknown))
        split = len(outs) - len(residuals)
        others = core.jaxpr_as_fun(other)(
            *outs[split:], *(value for is_unknown, value in pairs if is_unknown)
        )
        known_outs, unknown_outs = iter(outs[:split]), iter(others)
        return [next(unknown_outs if is_unknown else known_outs) for is_unknown in carry]

    info = body_jaxpr.jaxpr.debug_info.with_unknown_names()
    return {
        "cond_nconsts": cond_nconsts,
        "cond_jaxpr": _without_calls(cond_jaxpr),
        "body_nconsts": body_nconsts,
        "body_jaxpr": traced(body, body_jaxpr.in_avals, info),
    }


def traced(function: Any, avals: Any, info: Any) -> Any:
    """The program of a function of flat values. JAX 0.10.0 takes a wrapped function."""
    make = loops._make_closed_jaxpr
    if "debug_info" in inspect.signature(make).parameters:
        return make(function, avals, info)
    from jax._src import linear_util

    return make(linear_util.wrap_init(function, debug_info=info), avals)


def _declaring_nothing(closed: Any) -> Any:
    effects = {e for e in closed.effects if e not in control_flow.EFFECTS}
    return closed.replace(jaxpr=closed.jaxpr.replace(effects=effects))


def _inputs_used(jaxpr: Any, used_outputs: list[bool]) -> list[bool]:
    return list(_partial_eval.dce_jaxpr(jaxpr, used_outputs, False)[1])


def _keeping_what_is_needed(known: Any, consts: int, needed: list[bool]) -> Any:
    """The known body, in which what neither residuals nor the condition need stays as it was.

    Args:
      known: takes constants and state, and returns the state and residuals.
      needed: which parts of the state the condition looks at.
    """
    jaxpr = _without_effects_of_calls(known.jaxpr)
    residuals = [True] * (len(jaxpr.outvars) - len(needed))
    while True:
        used = _inputs_used(jaxpr, needed + residuals)[consts:]
        grown = list(map(operator.or_, needed, used))
        if grown == needed:
            break
        needed = grown
    state = zip(needed, jaxpr.outvars, jaxpr.invars[consts:], strict=False)
    outvars = [new if is_needed else old for is_needed, new, old in state]
    return known.replace(jaxpr=jaxpr.replace(outvars=[*outvars, *jaxpr.outvars[len(needed) :]]))


def _without_effects_of_calls(jaxpr: Any) -> Any:
    """The program in which calls, and loops and conditions around them, count by their results only."""
    eqns = [
        equation.replace(effects=core.no_effects) if _is_for_calls_alone(equation) else equation
        for equation in jaxpr.eqns
    ]
    return jaxpr.replace(eqns=eqns)


def _is_for_calls_alone(equation: Any) -> bool:
    """Whether no other effect happens in the equation than those of callbax's calls."""
    if equation.primitive in control_flow.effectful or not equation.effects:
        return True
    inside = list(core.jaxprs_in_params(equation.params))
    return bool(inside) and all(
        _is_for_calls_alone(inner) for jaxpr in inside for inner in jaxpr.eqns
    )


def _without_calls(closed: Any) -> Any:
    """The program without callbacks, none of whose results may be needed."""
    live, _ = _partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals), True)
    return closed.replace(jaxpr=_remove_calls(live))


def _remove_calls(jaxpr: Any) -> Any:
    used = {var for var in jaxpr.outvars if isinstance(var, core.Var)}
    kept: list[Any] = []
    for equation in reversed(jaxpr.eqns):
        if equation.primitive in control_flow.effectful:
            if used.isdisjoint(equation.outvars):
                continue
            raise control_flow.effectful[equation.primitive].needed_again(equation.params)
        if any(map(control_flow.effects_in, core.jaxprs_in_params(equation.params))):
            params = {name: _remove_in(value) for name, value in equation.params.items()}
            effects = {e for e in equation.effects if e not in control_flow.EFFECTS}
            equation = equation.replace(params=params, effects=effects)
        used.update(var for var in equation.invars if isinstance(var, core.Var))
        kept.insert(0, equation)
    still = frozenset().union(*(equation.effects for equation in kept))
    gone = {e for e in control_flow.EFFECTS if e not in still}
    return jaxpr.replace(eqns=kept, effects={e for e in jaxpr.effects if e not in gone})


def _remove_in(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_remove_in, value))
    if isinstance(value, core.Jaxpr) and control_flow.effects_in(value):
        return _remove_calls(value)
    if isinstance(value, _ClosedJaxpr) and control_flow.effects_in(value.jaxpr):
        return value.replace(jaxpr=_remove_calls(value.jaxpr))
    return value
