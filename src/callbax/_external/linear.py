"""Linear calls: a primitive that is linear in some operands, and is given its transpose.

    results = linear_call(function, residuals, operands, structs)

`function` holds two callables, `forward(residuals, operands)` and `transpose(residuals,
cotangents)`. Both are JAX code, and call the host somewhere. All that JAX asks of a linear function
follows: it is its own derivative in the operands, and reverse mode swaps the two callables, so that
it has derivatives of any order in its operands, in both modes.

JAX's `jax.custom_derivatives.linear_call` has no rule for vmap, and none for residuals that are
differentiated too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from callbax import _jax
from callbax._host import names
from callbax._jax import per_shard, placement

Struct: TypeAlias = jax.ShapeDtypeStruct


class LinearFunction(Protocol):
    """What a linear call calls. Comparable: it is a parameter of the primitive.

    Both callables take and return flat lists; the transpose returns a cotangent for each operand.
    """

    def forward(self, residuals: Sequence[Any], operands: Sequence[Any]) -> list[Any]: ...

    def transpose(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]: ...

    def refusal(self, residuals: Sequence[int]) -> str:
        """Why there is no derivative with respect to these residuals."""
        ...


def linear_call(
    function: LinearFunction,
    residuals: Sequence[Any],
    operands: Sequence[Any],
    structs: Sequence[Struct],
) -> list[Any]:
    """Flat results of `function.forward`, of the shapes and dtypes `structs`.

    In Explicit meshes these say how they are distributed, too.
    """
    values = placement.vary_alike([*residuals, *operands])
    return _PRIMITIVE.bind(
        *values, function=function, residuals=len(residuals), structs=tuple(structs)
    )


@dataclasses.dataclass(frozen=True)
class _Transposed:
    inner: LinearFunction

    def forward(self, residuals: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        return self.inner.transpose(residuals, operands)

    def transpose(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        return self.inner.forward(residuals, cotangents)

    def refusal(self, residuals: Sequence[int]) -> str:
        return self.inner.refusal(residuals)


@dataclasses.dataclass(frozen=True)
class _Batched:
    """A linear function for each lane; all its results have a leading axis of lanes."""

    inner: LinearFunction
    size: int
    residual_axes: tuple[int | None, ...]
    operand_axes: tuple[int | None, ...]

    def forward(self, residuals: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        axes = (list(self.residual_axes), list(self.operand_axes))
        mapped = jax.vmap(self.inner.forward, in_axes=axes, axis_size=self.size)
        return mapped(list(residuals), list(operands))

    def transpose(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        axes = (list(self.residual_axes), 0)
        mapped = jax.vmap(self.inner.transpose, in_axes=axes, axis_size=self.size)
        of_lanes = mapped(list(residuals), list(cotangents))
        # All lanes read an operand without an axis, so its cotangent is the sum of theirs.
        return [
            jnp.sum(cotangent, 0) if axis is None else jnp.moveaxis(cotangent, 0, axis)
            for cotangent, axis in zip(of_lanes, self.operand_axes, strict=True)
        ]

    def refusal(self, residuals: Sequence[int]) -> str:
        return self.inner.refusal(residuals)


def _abstract_eval(*avals: Any, structs: Any, **_: Any) -> Any:
    return [placement.aval_varying_as(struct, avals) for struct in structs]


def _forward(*values: Any, function: LinearFunction, residuals: int, **_: Any) -> list[Any]:
    return function.forward(values[:residuals], values[residuals:])


def _jvp(
    primals: Any, tangents: Any, *, function: LinearFunction, residuals: int, **params: Any
) -> Any:
    differentiated = [
        i for i, tangent in enumerate(tangents[:residuals]) if not _jax.is_zero_tangent(tangent)
    ]
    if differentiated:
        raise ValueError(function.refusal(differentiated))
    bind = functools.partial(_PRIMITIVE.bind, function=function, residuals=residuals, **params)
    operand_tangents = map(_jax.instantiate_zeros, tangents[residuals:])
    return bind(*primals), bind(*placement.vary_alike([*primals[:residuals], *operand_tangents]))


def _transpose(
    cotangents: Any, *args: Any, function: LinearFunction, residuals: int, structs: Any
) -> Any:
    differentiated = [i for i in range(residuals) if _jax.is_undefined_primal(args[i])]
    if differentiated:
        raise ValueError(function.refusal(differentiated))
    operands = args[residuals:]
    results = linear_call(
        _Transposed(function),
        args[:residuals],
        [_jax.instantiate_zeros(cotangent) for cotangent in cotangents],
        [_struct_of(operand) for operand in operands],
    )
    # JAX may know an operand's value already; then nobody asks for its cotangent.
    return [None] * residuals + [
        result if _jax.is_undefined_primal(operand) else None
        for result, operand in zip(results, operands, strict=True)
    ]


def _struct_of(operand: Any) -> Struct:
    aval = operand.aval if _jax.is_undefined_primal(operand) else jax.typeof(operand)
    return per_shard.typed_struct(aval)


def _batch(args: Any, dims: Any, *, function: LinearFunction, residuals: int, structs: Any) -> Any:
    axes = tuple(dims)
    size = next(a.shape[d] for a, d in zip(args, axes, strict=True) if d is not None)
    batched = _Batched(function, size, axes[:residuals], axes[residuals:])
    results = linear_call(
        batched,
        args[:residuals],
        args[residuals:],
        [per_shard.batched_struct(struct, size, args, axes) for struct in structs],
    )
    return results, [0] * len(results)


def _lower(ctx: Any, *operands: Any, function: LinearFunction, **params: Any) -> Any:
    # The host calls are made here, by `function`, and the jaxpr has nothing of them but this.
    with names.exports_kept_by(function):
        lower = _jax.lower_fun(_forward, multiple_results=True)
        return lower(ctx, *operands, function=function, **params)


_PRIMITIVE = _jax.Primitive("linear_host_call")
_PRIMITIVE.multiple_results = True
_PRIMITIVE.def_abstract_eval(_abstract_eval)
_PRIMITIVE.def_impl(functools.partial(_jax.apply_primitive, _PRIMITIVE))
_jax.primitive_jvps[_PRIMITIVE] = _jvp
_jax.primitive_transposes[_PRIMITIVE] = _transpose
_jax.primitive_batchers[_PRIMITIVE] = _batch
_jax.register_lowering(_PRIMITIVE, _lower)
