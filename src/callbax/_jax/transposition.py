"""Values that pass through a primitive which does nothing but meet the transformations of JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax._src import core
from jax._src.interpreters import ad, batching, mlir


def define_watched(name: str, transpose: Callable[..., None]) -> core.Primitive:
    """A primitive that returns its first operands, as many as its parameter `count` says.

    Tangents go through it as well, so that reverse mode always meets its transpose; these operands
    are floating-point or complex. The others are for the transpose, and have no derivative.

    Args:
      transpose: called with the cotangents, zeros written out, and the other operands, and with the
        parameters.
    """
    watched = core.Primitive(name)
    watched.multiple_results = True
    watched.def_impl(
        lambda *values, count, **_: [jax.numpy.asarray(value) for value in values[:count]]
    )
    watched.def_abstract_eval(lambda *avals, count, **_: avals[:count])

    def jvp(primals: Any, tangents: Any, *, count: int, **params: Any) -> Any:
        others = primals[count:]
        linear = map(ad.instantiate_zeros, tangents[:count])
        return (
            watched.bind(*primals, count=count, **params),
            watched.bind(*linear, *others, count=count, **params),
        )

    def rule(cotangents: Any, *operands: Any, count: int, **params: Any) -> Any:
        written_out = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
        transpose(written_out, operands[count:], **params)
        passed = zip(written_out, operands[:count], strict=True)
        return [
            *(
                cotangent if ad.is_undefined_primal(operand) else None
                for cotangent, operand in passed
            ),
            *(None for _ in operands[count:]),
        ]

    def batch(values: Any, dims: Any, *, count: int, **params: Any) -> Any:
        return watched.bind(*values, count=count, **params), dims[:count]

    ad.primitive_jvps[watched] = jvp
    ad.primitive_transposes[watched] = rule
    batching.primitive_batchers[watched] = batch
    mlir.register_lowering(watched, lambda ctx, *operands, count, **_: operands[:count])
    return watched
