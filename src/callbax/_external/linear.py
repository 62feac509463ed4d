"""Linear calls: a primitive that is linear in some operands, and is given its transpose.

    results = linear_call(function, residuals, operands, structs)

`function` holds two callables, `forward(residuals, operands)` and `transpose(residuals,
cotangents)`. Both are JAX code, and call the host somewhere. All that JAX asks of a linear function
follows: it is its own derivative in the operands, and reverse mode swaps the two callables, so that
it has derivatives of any order in its operands, in both modes.

JAX's `jax.custom_derivatives.linear_call` has no rule for vmap, and none for residuals that are
differentiated too.

`probe` gives the transpose of a function that is known to be linear, from its values on a basis.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
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


# -- from values on a basis ------------------------------------------------------------------------
# JAX pairs cotangents c with tangents t as Re(sum(c t)), without a conjugate. The transpose B of a
# linear map A is what keeps the pairing: Re(sum(B(c) t)) = Re(sum(c A(t))). For a real coordinate,
# t = 1 gives B(c) = Re(sum(c A(1))). A complex coordinate has two real directions, since A need only be
# linear over the reals (conj is): B(c) = Re(sum(c A(1))) - i Re(sum(c A(i))).
COSTLY = 1000


class CostlyDerivativeWarning(UserWarning):
    """A derivative asks for the values of a function at more than a thousand points.

    `callbax.external` takes rules that ask for less.

    >>> import warnings, numpy as np, callbax as cb
    >>> warnings.simplefilter("ignore", cb.CostlyDerivativeWarning)  # if it is meant
    """


FlatFunction = Callable[[list[Any]], list[Any]]


def probe(
    function: FlatFunction,
    structs: Sequence[jax.ShapeDtypeStruct],
    cotangents: Sequence[Any],
    describe_cost: Callable[[int], str],
) -> list[Any]:
    """The transpose of `function` at `cotangents`, by one call of it, batched over a basis.

    Args:
      function: linear; of arrays of `structs`.
      describe_cost: what to warn, from the size of the basis, if that is large.
    """
    count = coordinates(structs)
    if count == 0:
        return [jnp.zeros(struct.shape, struct.dtype) for struct in structs]
    warn_if_costly(count, describe_cost)
    return assemble(jax.vmap(function)(basis(structs)), structs, cotangents)


def coordinates(structs: Sequence[jax.ShapeDtypeStruct]) -> int:
    """How many real numbers arrays of `structs` hold."""
    return sum(map(_width, structs))


def basis(structs: Sequence[jax.ShapeDtypeStruct]) -> list[Any]:
    """The unit vectors of all arrays together, along a leading axis of each."""
    vectors, start, count = [], 0, coordinates(structs)
    if not isinstance(count, int):
        raise ValueError(
            "a derivative that tries each coordinate, numerically or by its other mode, needs arrays of "
            f"known sizes, but got {', '.join(str(struct.shape) for struct in structs)}; "
            'define one in the mode that is asked for, or say result="broadcast" if the function is '
            "elementwise"
        )
    for struct in structs:
        vectors.append(_directions(struct, count, start))
        start += _width(struct)
    return vectors


def assemble(
    images: Sequence[Any], structs: Sequence[jax.ShapeDtypeStruct], cotangents: Sequence[Any]
) -> list[Any]:
    """The transpose at `cotangents`, from the images of the `basis` of `structs`."""
    images, cotangents = per_shard.whole(images), per_shard.whole(cotangents)
    pairings = sum(
        _pair(image, cotangent) for image, cotangent in zip(images, cotangents, strict=True)
    )
    results, start = [], 0
    for struct in structs:
        part = pairings[start : start + _width(struct)].astype(jnp.finfo(struct.dtype).dtype)
        if is_complex(struct):
            part = jax.lax.complex(part[: struct.size], -part[struct.size :])
        results.append(part.reshape(struct.shape))
        start += _width(struct)
    return results


def _width(struct: jax.ShapeDtypeStruct) -> int:
    return struct.size * (2 if is_complex(struct) else 1)


def is_complex(struct: Any) -> bool:
    return bool(jnp.issubdtype(struct.dtype, jnp.complexfloating))


def warn_if_costly(count: int, describe_cost: Callable[[int], str]) -> None:
    if isinstance(count, int) and count > COSTLY:  # else it is symbolic
        warnings.warn(describe_cost(count), CostlyDerivativeWarning, stacklevel=2)


def _directions(struct: jax.ShapeDtypeStruct, count: int, start: int) -> Any:
    """`count` arrays: from number `start` on, the unit vectors of `struct`; zeros elsewhere."""
    real = jnp.finfo(struct.dtype).dtype
    vectors = jnp.eye(count, struct.size, -start, dtype=real)
    if is_complex(struct):
        vectors = jax.lax.complex(
            vectors, jnp.eye(count, struct.size, -start - struct.size, dtype=real)
        )
    return vectors.reshape(count, *struct.shape)


def _pair(image: Any, cotangent: Any) -> Any:
    """Re(sum(c A(t))) for each t."""
    flat = image.reshape(image.shape[0], -1)
    return jnp.real(jnp.matmul(flat, cotangent.ravel(), precision=jax.lax.Precision.HIGHEST))
