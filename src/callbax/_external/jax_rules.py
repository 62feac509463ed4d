"""Derivatives by JAX code: defjvp, defjvps and defvjp, with the meaning that JAX gives them.

Rules may use the external function itself, so that their derivatives are known too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from callbax import _jax
from callbax._external import masks
from callbax._external.call import Call
from callbax._external.host import on_host
from callbax._external.host_code import describe
from callbax._external.rules import (
    Struct,
    argument_leaves,
    is_inexact,
    result_leaves,
    with_jvp,
    without_keyword_tangents,
    zero_of,
)
from callbax._host.function import Hashable
from callbax._jax import placement


@dataclasses.dataclass(frozen=True)
class JvpRule:
    """`rule(primals, tangents) -> (result, its tangents)`."""

    rule: Hashable
    name = "defjvp"
    is_jax_code = True
    returns_object = False
    host_code = ()

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        where = describe(call, "defjvp", self.rule.value)

        def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
            with masks.entered(call, leaves) as primals:
                args, kwargs = call.structure.unflatten(primals)
                instantiated = _instantiate(primals, tangents[call.masked :])
                of_args, _ = call.structure.unflatten_without_static(instantiated)
                returned = self.rule.value(args, of_args, **kwargs)
            pair = _pair(returned, where, "the result and its tangents")
            results, result_tangents = (result_leaves(call, part, where) for part in pair)
            structs = call.result_structs
            return (
                _check_each(results, structs, f"{where}, for the result,"),
                _check_tangents(result_tangents, structs, where),
            )

        return with_jvp(call, lambda *leaves: on_host(call, leaves), jvp)(*leaves)


@dataclasses.dataclass(frozen=True)
class JvpRules:
    """For each positional argument `rule(tangent, answer, *primals) -> tangents`, or None."""

    rules: tuple[Hashable, ...]
    name = "defjvps"
    is_jax_code = True
    returns_object = False
    host_code = ()

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
            results = differentiable(*leaves)
            totals = [zero_of(result) for result in results if is_inexact(result)]
            with masks.entered(call, leaves) as primals:
                for part in self._parts(call, results, primals, tangents[call.masked :]):
                    totals = [total + term for total, term in zip(totals, part, strict=True)]
            return results, totals

        differentiable = with_jvp(call, lambda *leaves: on_host(call, leaves), jvp)
        return differentiable(*leaves)

    def _parts(
        self, call: Call, results: Sequence[Any], primals: Sequence[Any], tangents: Sequence[Any]
    ) -> Iterator[list[Any]]:
        """What each argument contributes."""
        args, kwargs = call.structure.unflatten(primals)
        answer = call.result_tree.unflatten(results)
        known, _ = call.structure.unflatten_without_static(tangents)
        instantiated = _instantiate(primals, tangents)
        of_args, _ = call.structure.unflatten_without_static(instantiated)
        for i, tangent in enumerate(of_args):
            rule = self._rule_of(i, call) if jax.tree.leaves(known[i]) else None
            if rule is not None:
                where = describe(call, f"defjvps (argument {i})", rule)
                part = result_leaves(call, rule(tangent, answer, *args, **kwargs), where)
                yield _check_tangents(part, call.result_structs, where)

    def _rule_of(self, argument: int, call: Call) -> Callable[..., Any] | None:
        if argument >= len(self.rules):
            raise TypeError(
                f"{call.where} is differentiated with respect to argument {argument}, but defjvps was "
                f"given {len(self.rules)} rule(s): give one for each positional argument, None for "
                "one that contributes nothing"
            )
        return self.rules[argument].value


@dataclasses.dataclass(frozen=True)
class VjpRule:
    """`forward(*args) -> (result, residuals)`, `backward(residuals, cotangents) -> cotangents`."""

    forward: Hashable
    backward: Hashable
    name = "defvjp"
    is_jax_code = True
    returns_object = False
    host_code = ()

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        # JAX's symbolic zeros would say what is differentiated, but not in a shard_map.
        leaves = without_keyword_tangents(call, leaves)

        def forward(*leaves: Any) -> tuple[list[Any], Any]:
            with masks.entered(call, leaves) as primals:
                results, residuals = self._forward(call, primals)
            return results, (leaves[: call.masked], residuals)

        def backward(residuals: Any, cotangents: Sequence[Any]) -> tuple[Any, ...]:
            mask, residuals = residuals
            with masks.entered(call, mask):
                of_args = self._backward(call, residuals, cotangents)
            of_keywords = len(call.structs) - len(of_args)
            return (*[None] * call.masked, *of_args, *[None] * of_keywords)

        differentiable = jax.custom_vjp(lambda *leaves: on_host(call, leaves))
        differentiable.defvjp(forward, backward)
        return differentiable(*placement.vary_alike(leaves))

    def _forward(self, call: Call, primals: Sequence[Any]) -> tuple[list[Any], Any]:
        args, kwargs = call.structure.unflatten(primals)
        returned = self.forward.value(*args, **kwargs)
        where = describe(call, "defvjp forward", self.forward.value)
        result, residuals = _pair(returned, where, "the result and the residuals")
        results = result_leaves(call, result, where)
        results = _check_each(results, call.result_structs, f"{where}, for the result,")
        return results, jax.tree.map(_wrap_static, residuals)

    def _backward(self, call: Call, residuals: Any, cotangents: Sequence[Any]) -> list[Any]:
        """The cotangents of the arrays in positional arguments."""
        residuals = jax.tree.map(_unwrap_static, residuals, is_leaf=_is_static)
        of_result = call.result_tree.unflatten(cotangents)
        returned = self.backward.value(residuals, of_result)
        where = describe(call, "defvjp backward", self.backward.value)
        of_args = argument_leaves(call, returned, where)
        return [
            _check_one(cotangent, struct, where) if is_inexact(struct) else None
            for cotangent, struct in zip(of_args, call.structs, strict=False)
        ]


@jax.tree_util.register_static
class _Static(Hashable):
    """A residual that is not an array: it passes from the forward to the backward rule in the tree."""

    __slots__ = ()


def _wrap_static(leaf: Any) -> Any:
    return leaf if _jax.is_array_like(leaf) else _Static(leaf)


def _is_static(leaf: Any) -> bool:
    return isinstance(leaf, _Static)


def _unwrap_static(leaf: Any) -> Any:
    return leaf.value if _is_static(leaf) else leaf


def _pair(returned: Any, where: str, what: str) -> Any:
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise TypeError(
            f"{where} must return a pair, {what}, but returned {jax.tree.structure(returned)}"
        )
    return returned


def _instantiate(leaves: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
    return [
        zero_of(leaf) if tangent is None else tangent
        for leaf, tangent in zip(leaves, tangents, strict=True)
    ]


def _check_tangents(leaves: Sequence[Any], structs: Sequence[Struct], where: str) -> list[Any]:
    """The tangents of the inexact results."""
    return [
        _check_one(leaf, struct, where)
        for leaf, struct in zip(leaves, structs, strict=True)
        if is_inexact(struct)
    ]


def _check_each(leaves: Sequence[Any], structs: Sequence[Struct], where: str) -> list[Any]:
    return [_check_one(leaf, struct, where) for leaf, struct in zip(leaves, structs, strict=True)]


def _check_one(leaf: Any, struct: Struct, where: str) -> Any:
    """What a rule returned for one array; None is zero.

    Raises:
      TypeError: it has another shape or dtype.
    """
    if leaf is None:
        return jnp.zeros(struct.shape, struct.dtype)
    aval = jax.typeof(leaf)
    same_dtype = aval.dtype == struct.dtype or (
        aval.weak_type and jnp.promote_types(aval.dtype, struct.dtype) == struct.dtype
    )
    if aval.shape != struct.shape or not same_dtype:
        shape = ",".join(map(str, struct.shape))
        raise TypeError(
            f"{where} returned {aval.str_short()} where {struct.dtype}[{shape}] is "
            "expected: shapes and dtypes follow from the host function's arguments and result"
        )
    return jnp.asarray(leaf, struct.dtype)
