"""The transpose of a linear function, from its values on a basis.

JAX pairs cotangents c with tangents t as Re(sum(c t)), without a conjugate. The transpose B of a
linear map A is what keeps the pairing: Re(sum(B(c) t)) = Re(sum(c A(t))). For a real coordinate,
t = 1 gives B(c) = Re(sum(c A(1))). A complex coordinate has two real directions, since A need only be
linear over the reals (conj is): B(c) = Re(sum(c A(1))) - i Re(sum(c A(i))).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from callbax._jax import per_shard

COSTLY = 1000


class CostlyDerivativeWarning(UserWarning):
    """A derivative asks for the function's values at more than a thousand points."""


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
