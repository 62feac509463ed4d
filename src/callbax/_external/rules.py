"""What the derivative rules of external functions have in common.

Rules work on flat lists of arrays. A user's rule sees `primals`, the positional arguments in their
own structure, and tangents and cotangents that follow them, with None in the places of static
leaves; arguments that have no position reach it as the same keyword arguments.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from callbax._callbacks.results import check_callable
from callbax._external.call import Call, Definition
from callbax._external.host_code import Layout
from callbax._host.structure import BY_POSITION, signature_of
from callbax._jax import per_shard, placement
from callbax._runtime.errors import describe_function

Struct: TypeAlias = jax.ShapeDtypeStruct


def check_rules(definition: Definition, method: str, rules: Sequence[Any], *gets: str) -> None:
    """Refuses what cannot be one rule for each positional argument; None is one.

    Raises:
      TypeError: as `check_rule` does.
      ValueError: there are more rules than arguments.
    """
    for rule in rules:
        if rule is not None:
            check_rule(definition, method, rule, *gets)
    _, known = _positional(_signature_of_host(definition))
    if len(rules) > known:
        raise ValueError(
            f"{method} of {definition.description} was given {len(rules)} rules, one for each "
            f"positional argument, but the function takes {known}"
        )


def check_rule(definition: Definition, method: str, rule: Any, *gets: str) -> None:
    """Refuses what the method cannot take as a rule: it must be callable with the positional
    arguments that `gets` names. A last `"*primals"` stands for those of the host function.

    Raises:
      TypeError: it is not.
    """
    check_callable(f"External.{method}", rule)
    own, of_host = signature_of(rule), _signature_of_host(definition)
    if own is None:
        return
    least: float = len(gets)
    most = least
    if gets[-1] == "*primals":
        required, known = _positional(of_host)
        least, most = least - 1 + required, most - 1 + known
    required, known = _positional(own)
    if known < least or (required > most and not _gets_names(of_host)):
        raise TypeError(
            f"the {method} rule {describe_function(rule)} of {definition.description} takes {own}, "
            f"but it is called with ({', '.join(gets)})"
        )


def _signature_of_host(definition: Definition) -> inspect.Signature | None:
    return signature_of(definition.function, without_out=definition.options.out)


def _positional(signature: inspect.Signature | None) -> tuple[int, float]:
    """How many positional arguments are needed, and how many are taken."""
    if signature is None:
        return 0, math.inf
    parameters = signature.parameters.values()
    named = [p.default is p.empty for p in parameters if p.kind in BY_POSITION]
    is_open = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return sum(named), math.inf if is_open else len(named)


def _gets_names(signature: inspect.Signature | None) -> bool:
    """Whether it takes keyword arguments that have no position; rules get them, too."""
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return signature is None or any(p.kind in by_name for p in signature.parameters.values())


def is_inexact(struct: Any) -> bool:
    return _is_inexact_dtype(struct.dtype)


@functools.lru_cache
def _is_inexact_dtype(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def inexact_only(structs: Sequence[Struct]) -> list[Struct]:
    """The structs that have tangents."""
    return [struct for struct in structs if is_inexact(struct)]


def typed_structs(results: Sequence[Any]) -> list[Struct]:
    """Those of the results that have tangents, with how they are distributed in Explicit meshes."""
    return [per_shard.typed_struct(jax.typeof(result)) for result in results if is_inexact(result)]


# A rule of flat lists: (leaves, tangents), None for a tangent that is zero, to the results and the
# tangents of those that are inexact. The first leaf of a masked call is the mask, which has none.
FlatJvp = Callable[[Sequence[Any], Sequence[Any]], tuple[Sequence[Any], Sequence[Any]]]


def with_jvp(call: Call, function: Callable[..., list[Any]], jvp: FlatJvp) -> Callable[..., Any]:
    """`function(*leaves)` with the derivative `jvp`; the call's keyword arguments have none."""

    def rule(leaves: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        nonzero = [None if _is_zero(tangent) else jnp.asarray(tangent) for tangent in tangents]
        _refuse_keyword_tangents(call, [t is not None for t in nonzero[call.masked :]])
        if all(tangent is None for tangent in nonzero):  # integers have tangents too, of float0
            unchanged = function(*leaves)
            return unchanged, [_zero_tangent(result) for result in unchanged]
        results, result_tangents = jvp(leaves, nonzero)
        varying = placement.vary_alike(results, leaves)
        remaining = iter(placement.vary_alike(result_tangents, leaves))
        return varying, [
            next(remaining) if is_inexact(result) else _zero_tangent(result) for result in varying
        ]

    differentiable = jax.custom_jvp(function)
    differentiable.defjvp(rule, symbolic_zeros=True)
    return differentiable


def _is_zero(tangent: Any) -> bool:
    # A tangent may be a Python number, as a primal may.
    return (
        isinstance(tangent, jax.custom_derivatives.SymbolicZero)
        or getattr(tangent, "dtype", None) == jax.dtypes.float0
    )


def _zero_tangent(primal: Any) -> Any:
    """A zero that varies over devices as the result does, which an array of float0 cannot."""
    if is_inexact(primal):
        return zero_of(primal)
    return jax.custom_derivatives.SymbolicZero(jax.typeof(primal).to_tangent_aval())


def zero_of(primal: Any) -> Any:
    """The tangent that is zero; of integers and booleans, JAX's float0."""
    if is_inexact(primal):
        return jnp.zeros_like(primal)
    return np.zeros(jnp.shape(primal), jax.dtypes.float0)


def without_keyword_tangents(call: Call, leaves: Sequence[Any]) -> list[Any]:
    """The leaves; to differentiate with respect to keyword arguments is an error."""
    if not inexact_only(call.structs[call.structure.positional_leaves :]):
        return list(leaves)

    def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
        pairs = zip(leaves, tangents, strict=True)
        return leaves, [zero_of(x) if t is None else t for x, t in pairs if is_inexact(x)]

    return with_jvp(call, lambda *leaves: list(leaves), jvp)(*leaves)


def _refuse_keyword_tangents(call: Call, differentiated: Sequence[bool]) -> None:
    """Rules cannot say anything about arguments that have no position."""
    first = call.structure.positional_leaves
    for name, is_differentiated in list(zip(call.names(), differentiated, strict=True))[first:]:
        if is_differentiated:
            raise TypeError(
                f"{call.where} is differentiated with respect to its keyword argument {name}, but "
                "derivative rules follow the positional arguments. Make it positional in the host "
                "function's signature, or pass it through jax.lax.stop_gradient."
            )


def result_leaves(call: Call | Layout, value: Any, rule: str) -> list[Any]:
    """What a rule returned in the result's structure, flat; None may be given for an array.

    Raises:
      TypeError: it has another structure.
    """
    return _leaves_like(call.result_tree, value, rule, "the result")


def _leaves_like(tree: Any, value: Any, rule: str, like: str) -> list[Any]:
    try:
        leaves = tree.flatten_up_to(value)
        fits = all(leaf is None or jax.tree_util.all_leaves([leaf]) for leaf in leaves)
    except (ValueError, TypeError):
        fits = False
    if not fits:
        raise TypeError(
            f"{rule} returned, for {like}, the structure {jax.tree.structure(value)}; expected that of "
            f"{like} itself, {tree}, where None may be given for an array of zeros"
        )
    return leaves


def argument_leaves(call: Call | Layout, value: Any, rule: str) -> list[Any]:
    """Cotangents that a rule returned, one for each array of the positional arguments; flat.

    Raises:
      TypeError: they do not follow the arguments.
    """
    trees = call.structure.tree.children()[0].children()
    if not isinstance(value, (tuple, list)) or len(value) != len(trees):
        got = f"{len(value)}" if isinstance(value, (tuple, list)) else f"{type(value).__name__}"
        raise TypeError(
            f"{rule} must return a tuple of {len(trees)} cotangents, one for each positional argument "
            f"(None for one that has no derivative), but returned {got}"
        )
    leaves: list[Any] = []
    for i, (tree, cotangent) in enumerate(zip(trees, value, strict=True)):
        if cotangent is None:
            leaves += [None] * tree.num_leaves
        else:
            leaves += _leaves_like(tree, cotangent, rule, f"argument {i}")
    static = {position for position, _ in call.structure.static}
    return [leaf for i, leaf in enumerate(leaves) if i not in static]
