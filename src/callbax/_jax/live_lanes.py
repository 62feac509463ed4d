"""Which lanes are live in conditions and loops under `vmap`: the part of the gateway that tells.

Under `vmap` with a predicate for each lane, JAX runs both branches of a condition for all lanes, and the
body of a while loop also for lanes that have ended, and selects afterwards. A callback in there sees
all lanes. Those of primitives in `masked` take the mask as an operand, so here each branch, and the body
of each loop, gets one more input which says whether the lane is live in it, and hands that on to these
calls, at any depth: through inner conditions, loops, jitted and checkpointed functions. Functions with
derivative rules of their own (`jax.custom_jvp`, `jax.custom_vjp`) are not entered. JAX code that sees
gradients (transposition.py) is given the mask of the forward pass.

Only programs that hold such calls are treated so, and only where JAX's rules have the form that this
was written for (JAX 0.10.2 to 0.12.0).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import ad_checkpoint, core, pjit, source_info_util
from jax._src.interpreters import batching
from jax._src.interpreters import partial_eval as _partial_eval
from jax._src.lax.control_flow import conditionals, loops
from jax._src.util import weakref_lru_cache

from callbax._jax import control_flow
from callbax._jax.while_loops import traced

# By primitive: which of its operands is true for live lanes, a scalar for each.
masked: dict[Any, int] = {}


def mask_conditions_and_loops() -> None:
    """Makes JAX's rules of `vmap` tell the primitives in `masked` which lanes are live."""
    _mask_conditions()
    _mask_loops()


@weakref_lru_cache
def _has_masked(jaxpr: Any) -> bool:
    return any(eqn.primitive in masked for eqn in jaxpr.eqns) or any(
        map(_has_masked, core.subjaxprs(jaxpr))
    )


def _holds_masked(closed: Any) -> bool:
    return _has_masked(closed.jaxpr)


def run_in(live: Any, function: Callable[..., Any], operands: Sequence[Any]) -> None:
    """Runs JAX code of flat values for its effects, which look at live lanes only."""
    if not isinstance(live, core.Tracer) and np.all(live):
        function(*operands)
        return
    _evaluate(jax.make_jaxpr(function)(*operands), live, operands)


# -- the rules of JAX --------------------------------------------------------------------------------
def _mask_conditions() -> None:
    rule: Any = batching.fancy_primitive_batchers[conditionals.cond_p]
    if _parameters(conditionals._cond_batching_rule)[:4] != [
        "axis_data",
        "args",
        "dims",
        "branches",
    ]:
        return

    def batch(axis_data: Any, args: Any, dims: Any, *, branches: Any, **params: Any) -> Any:
        by_platform = params.get("branches_platforms") is not None
        if dims[0] is not None and not by_platform and any(map(_holds_masked, branches)):
            index = core.mapped_aval(axis_data.size, dims[0], core.typeof(args[0]))
            branches = tuple(_branch(branch, i, index) for i, branch in enumerate(branches))
            args, dims = (args[0], *args), (dims[0], *dims)
        return rule(axis_data, args, dims, branches=branches, **params)

    batching.fancy_primitive_batchers[conditionals.cond_p] = batch


def _branch(closed: Any, number: int, index: Any) -> Any:
    """The branch with the index of the one that is taken as one more operand."""

    def run(index: Any, *operands: Any) -> Any:
        return _evaluate(closed, index == number, operands)

    return _traced_like(closed, run, [index, *closed.in_avals])


def _mask_loops() -> None:
    rule: Any = batching.fancy_primitive_batchers[loops.while_p]
    expected = [
        "axis_data",
        "args",
        "dims",
        "cond_nconsts",
        "cond_jaxpr",
        "body_nconsts",
        "body_jaxpr",
    ]
    if _parameters(loops._while_loop_batching_rule) != expected:
        return

    def batch(axis_data: Any, args: Any, dims: Any, **params: Any) -> Any:
        if _masks_lanes(params["cond_jaxpr"], params["body_jaxpr"]):
            of_condition = params["cond_nconsts"]
            args = (*args[:of_condition], *args)
            dims = (*dims[:of_condition], *dims)
            params = {
                **params,
                "body_nconsts": of_condition + params["body_nconsts"],
                "body_jaxpr": _body(**params),
            }
        return rule(axis_data, args, dims, **params)

    batching.fancy_primitive_batchers[loops.while_p] = batch


def _masks_lanes(condition: Any, body: Any) -> bool:
    """Whether the body is to be told which lanes go on.

    If the condition has lanes, it knows: a `vmap` further inside has told it, lane by lane.
    """
    has_lanes = condition.out_avals[0].shape != ()
    return _holds_masked(body) and not has_lanes and not control_flow.effects_in(condition.jaxpr)


def _body(*, cond_nconsts: int, cond_jaxpr: Any, body_nconsts: int, body_jaxpr: Any) -> Any:
    """The body with the constants of the condition in front: it computes whether its lane goes on."""
    of_condition = cond_jaxpr.in_avals[:cond_nconsts]

    def run(*operands: Any) -> Any:
        constants, others = operands[:cond_nconsts], operands[cond_nconsts:]
        [goes_on] = core.jaxpr_as_fun(cond_jaxpr)(*constants, *others[body_nconsts:])
        return _evaluate(body_jaxpr, goes_on, others)

    return _traced_like(body_jaxpr, run, [*of_condition, *body_jaxpr.in_avals])


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


# -- programs with a mask ----------------------------------------------------------------------------
def _traced_like(closed: Any, run: Callable[..., Any], avals: Sequence[Any]) -> Any:
    return traced(run, avals, closed.jaxpr.debug_info.with_unknown_names())


def _with_mask(closed: Any, live: Any) -> Any:
    """The program with one more operand in front: whether its lane is live, a value like this one."""

    def run(live: Any, *operands: Any) -> Any:
        if not _holds_masked(closed):
            return core.jaxpr_as_fun(closed)(*operands)
        return _evaluate(closed, live, operands)

    return _traced_like(closed, run, [core.typeof(live), *closed.in_avals])


def _evaluate(closed: Any, live: Any, operands: Sequence[Any]) -> list[Any]:
    """What the program returns; it looks at live lanes only."""
    jaxpr = closed.jaxpr
    variables = [*jaxpr.constvars, *jaxpr.invars]
    values = dict(zip(variables, [*closed.consts, *operands], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        name_stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
        with (
            source_info_util.user_context(eqn.source_info.traceback, name_stack=name_stack),
            eqn.ctx.manager,
        ):
            results = _apply(eqn, live, list(map(read, eqn.invars)))
        values.update(zip(eqn.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def _apply(eqn: Any, live: Any, operands: list[Any]) -> Sequence[Any]:
    primitive, params = eqn.primitive, eqn.params
    if primitive in masked:
        place = masked[primitive]
        operands[place] = jax.numpy.logical_and(live, operands[place])
    elif primitive in _INSIDE and any(map(_has_masked, core.jaxprs_in_params(params))):
        return _INSIDE[primitive](live, operands, dict(params))
    results: Any = primitive.bind(*operands, **primitive.get_bind_params(params))
    return results if primitive.multiple_results else [results]


def _inline(live: Any, operands: Any, params: Any) -> Any:
    closed = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
    return _evaluate(closed, live, operands)


def _scan(live: Any, operands: Any, params: Any) -> Any:
    if "ft_in" in params:  # JAX 0.12
        constants, state = map(len, params["ft_in"].unpack()[:2])
    else:
        constants, state = params["num_consts"], params["num_carry"]

    def step(carry: Any, x: Any) -> Any:
        results = _evaluate(params["jaxpr"], live, [*operands[:constants], *carry, *x])
        return results[:state], results[state:]

    start, inputs = operands[constants : constants + state], operands[constants + state :]
    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, outputs = jax.lax.scan(step, start, inputs, **options)
    return [*carry, *outputs]


def _while(live: Any, operands: Any, params: Any) -> Any:
    of_condition = params["cond_nconsts"]
    for part in ("cond", "body"):
        params[f"{part}_jaxpr"] = _with_mask(params[f"{part}_jaxpr"], live)
        params[f"{part}_nconsts"] += 1
    split = operands[:of_condition], operands[of_condition:]
    return loops.while_p.bind(live, *split[0], live, *split[1], **params)


def _cond(live: Any, operands: Any, params: Any) -> Any:
    params["branches"] = tuple(_with_mask(branch, live) for branch in params["branches"])
    index, *others = operands
    return conditionals.cond_p.bind(index, live, *others, **params)


def _checkpointed(live: Any, operands: Any, params: Any) -> Any:
    closed = _with_mask(_partial_eval.close_jaxpr(params["jaxpr"]), live)
    params["jaxpr"] = _partial_eval.convert_constvars_jaxpr(closed.jaxpr)
    if isinstance(params["prevent_cse"], tuple):
        params["prevent_cse"] = (*(False for _ in closed.consts), False, *params["prevent_cse"])
    return ad_checkpoint.remat_p.bind(*closed.consts, live, *operands, **params)


# How a call of each primitive that holds programs hands the mask on.
_INSIDE: dict[Any, Callable[[Any, Any, Any], Any]] = {
    pjit.jit_p: _inline,
    core.closed_call_p: _inline,
    loops.scan_p: _scan,
    loops.while_p: _while,
    conditionals.cond_p: _cond,
    ad_checkpoint.remat_p: _checkpointed,
}
