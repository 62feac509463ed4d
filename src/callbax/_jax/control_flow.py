"""Effects in JAX's loops and conditions: the part of the gateway that changes rules of JAX's.

Some rules of JAX's for control flow do not keep the effects of callbacks as often as the program says:

- Reverse mode splits a scan in two and moves out of the loop what does not depend on its steps, with
  the callbacks in it; those that do depend on them are dropped if their results are not needed
  (`_scan_known_hoisting`, and the rule of scan for `jax.checkpoint`). A callback then runs once, or
  never, in silence. A loop that holds effects of callbax stays whole.
- `vmap` refuses any condition with IO, and a while loop with ordered IO, although only a batched
  predicate makes them ambiguous. With an unbatched one they run.

Only programs that hold callbax's primitives are treated so; others go to JAX's rules as they are. Where
JAX has other functions than those that this file was written for (JAX 0.10.0 to 0.12.0), JAX's rules
stay as well.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any

from jax._src import callback as _callback
from jax._src import core
from jax._src import debugging as _debugging
from jax._src.interpreters import batching
from jax._src.interpreters import partial_eval as _partial_eval
from jax._src.lax.control_flow import conditionals, loops
from jax._src.util import weakref_lru_cache

from callbax._jax.host_callback import HOST_CALLBACK_EFFECT

_IO_EFFECTS = frozenset({_callback._IOEffect, _callback._OrderedIOEffect})
EFFECTS = _IO_EFFECTS | {
    _debugging.debug_effect,
    _debugging.ordered_debug_effect,
    HOST_CALLBACK_EFFECT,
}


@dataclasses.dataclass(frozen=True)
class Effectful:
    """What a primitive with an effect says about standing in conditions and loops.

    Attributes:
      is_masked: from its parameters, whether it knows by itself which lanes are live.
      error: from its parameters and the phrase with which JAX refuses, the exception if a
        batched predicate is above one that does not.
      needed_again: from its parameters, the exception where a linear function would need its results.
    """

    is_masked: Callable[[Any], bool]
    error: Callable[[Any, str], Exception]
    needed_again: Callable[[Any], Exception]


effectful: dict[Any, Effectful] = {}


def keep_effects(primitive: Any, rules: Effectful) -> None:
    """Makes the effects of `primitive` happen in loops and conditions as often as the program says."""
    effectful[primitive] = rules


@weakref_lru_cache
def effects_in(jaxpr: Any) -> tuple[Any, ...]:
    """The equations in `jaxpr` that apply primitives with effects of callbax, at any depth."""
    if not jaxpr.effects:
        return ()
    found = [equation for equation in jaxpr.eqns if equation.primitive in effectful]
    for inner in core.subjaxprs(jaxpr):
        found.extend(effects_in(inner))
    return tuple(found)


# -- loops under reverse mode --------------------------------------------------------------------
def _keep_loops_whole() -> None:
    hoist = loops._scan_known_hoisting
    if list(inspect.signature(hoist).parameters)[:2] != ["jaxpr_known", "known_consts"]:
        return

    def hoist_without_effects(
        jaxpr_known: Any, known_consts: Any, residuals: int, *structured: int
    ) -> Any:
        if effects_in(jaxpr_known.jaxpr):
            operands = [*jaxpr_known.consts, *known_consts]
            return _with_constants_as_operands(jaxpr_known), operands, [False] * residuals, []
        return hoist(jaxpr_known, known_consts, residuals, *structured)

    loops._scan_known_hoisting = hoist_without_effects


def _with_constants_as_operands(closed: Any) -> Any:
    """The program with its constants as operands, in front of the others.

    JAX, too, makes operands of the constants of what it has split. One may be a tracer of the trace of
    the loop's body, which a derivative rule has closed over.
    """
    return _partial_eval.close_jaxpr(_partial_eval.convert_constvars_jaxpr(closed.jaxpr))


class _WithoutHoisting:
    """JAX's module of partial evaluation, for the rule of scan, with nothing that does not vary."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_partial_eval, name)

    def partial_eval_jaxpr_nounits(
        self, loop: Any, varies: Sequence[bool], instantiate: Any
    ) -> tuple[Any, Any, list[bool], list[Any]]:
        """The body of a loop as what is computed before it, nothing, and in it, everything."""
        body = loop.jaxpr
        inputs = [var for var, does in zip(body.invars, varies, strict=True) if not does]
        constant = [*body.constvars, *inputs]
        before = loop.replace(
            jaxpr=body.replace(
                invars=inputs,
                outvars=constant,
                eqns=[],
                effects=core.no_effects,
                debug_info=body.debug_info.with_unknown_names(),
            )
        )
        inside = _partial_eval.move_binders_to_front(loop, [not does for does in varies])
        inside = _with_constants_as_operands(inside)
        return before, inside, [True] * len(body.outvars), [var.aval for var in constant]


def _keep_checkpointed_loops_whole() -> None:
    rules = _partial_eval.partial_eval_jaxpr_custom_rules
    rule: Any = rules[loops.scan_p]
    if "partial_eval_jaxpr_nounits" not in rule.__code__.co_names or rule.__closure__:
        return
    without_hoisting: Any = types.FunctionType(
        rule.__code__, {**rule.__globals__, "pe": _WithoutHoisting()}, rule.__name__
    )

    def split(saveable: Any, unknown: Any, instantiated: Any, equation: Any) -> Any:
        effects = effects_in(equation.params["jaxpr"].jaxpr)
        return (without_hoisting if effects else rule)(saveable, unknown, instantiated, equation)

    rules[loops.scan_p] = split


# -- conditions under vmap -----------------------------------------------------------------------
def _declaring(closed: Any, effects: frozenset[Any]) -> Any:
    """The program, with just these effects of IO in what JAX's rules look at.

    They look at nothing but this set; the batched program gets its effects from its equations.
    """
    declared = {effect for effect in closed.effects if effect not in _IO_EFFECTS}
    return closed.replace(jaxpr=closed.jaxpr.replace(effects=declared | effects))


def _io_in(*programs: Any) -> list[Any]:
    return [
        equation
        for program in programs
        for equation in effects_in(program.jaxpr)
        if _IO_EFFECTS & equation.effects
    ]


# How JAX begins its refusals; users match on that.
_REFUSED_IN_COND = "IO effect not supported in vmap-of-cond."
_REFUSED_IN_WHILE = "Unordered IO effects not supported in while_loop with batched predicate"


def _error(equations: Sequence[Any], refusal: str) -> Exception | None:
    for equation in equations:
        rules = effectful[equation.primitive]
        if not rules.is_masked(equation.params):
            return rules.error(equation.params, refusal)
    return None


def _batch_cond_with_effects() -> None:
    rule: Any = batching.fancy_primitive_batchers[conditionals.cond_p]

    def batch(axis_data: Any, args: Any, dims: Any, *, branches: Any, **params: Any) -> Any:
        if effects := _io_in(*branches):
            # The index of a branch for each platform is the same for all lanes, though it may not
            # look like it.
            by_platform = params.get("branches_platforms") is not None
            error = _error(effects, _REFUSED_IN_COND)
            if dims[0] is not None and not by_platform and error is not None:
                raise error
            branches = tuple(_declaring(branch, frozenset()) for branch in branches)
        return rule(axis_data, args, dims, branches=branches, **params)

    batching.fancy_primitive_batchers[conditionals.cond_p] = batch


def _batch_while_with_effects() -> None:
    rule: Any = batching.fancy_primitive_batchers[loops.while_p]

    def batch(
        axis_data: Any, args: Any, dims: Any, *, cond_jaxpr: Any, body_jaxpr: Any, **params: Any
    ) -> Any:
        effects = _io_in(cond_jaxpr, body_jaxpr)
        error = _error(effects, _REFUSED_IN_WHILE)
        if effects:
            # JAX refuses ordered IO in each loop, and the other kind if the predicate is batched.
            refused = frozenset({_callback._IOEffect} if error is not None else ())
            cond_jaxpr, body_jaxpr = (
                _declaring(program, refused) for program in (cond_jaxpr, body_jaxpr)
            )
        try:
            return rule(
                axis_data, args, dims, cond_jaxpr=cond_jaxpr, body_jaxpr=body_jaxpr, **params
            )
        except Exception as refusal:
            if error is not None and str(refusal) == _REFUSED_IN_WHILE:
                raise error from None
            raise

    batching.fancy_primitive_batchers[loops.while_p] = batch


_keep_loops_whole()
_keep_checkpointed_loops_whole()
_batch_cond_with_effects()
_batch_while_with_effects()
