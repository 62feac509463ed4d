"""Values that pass through a primitive which does nothing but meet the transformations of JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import core
from jax._src.interpreters import ad, batching, mlir

from callbax._jax import live_lanes


def define_watched(name: str, see: Callable[..., None]) -> Callable[..., Sequence[Any]]:
    """A function that returns its first operands, as many as its parameter `count` says.

    Tangents go through it as well, so that reverse mode always meets its transpose; these operands
    are floating-point or complex. The others are for the transpose, and have no derivative.

    Args:
      see: JAX code for the transpose, which is called with the cotangents, zeros written out, and the
        other operands, and with the parameters. Under `vmap` it is called under `vmap`, for the lanes
        that were live in the forward pass.
    """
    watched = core.Primitive(name)
    watched.multiple_results = True
    watched.def_impl(
        lambda _, *values, count, **__: [jax.numpy.asarray(value) for value in values[:count]]
    )
    watched.def_abstract_eval(lambda _, *avals, count, **__: avals[:count])

    def jvp(primals: Any, tangents: Any, *, count: int, **params: Any) -> Any:
        live, *values = primals
        linear = map(ad.instantiate_zeros, tangents[1 : 1 + count])
        return (
            watched.bind(*primals, count=count, **params),
            watched.bind(live, *linear, *values[count:], count=count, **params),
        )

    def rule(
        cotangents: Any,
        live: Any,
        *operands: Any,
        count: int,
        lanes: tuple[Sequence[int | None], ...],
        **params: Any,
    ) -> Any:
        written_out = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]

        def look(live: Any, *values: Any) -> None:
            live_lanes.run_in(
                live, lambda *values: see(values[:count], values[count:], **params), values
            )

        for dims in lanes:
            look = jax.vmap(look, in_axes=dims)
        look(live, *written_out, *operands[count:])
        passed = zip(written_out, operands[:count], strict=True)
        return [
            None,
            *(
                cotangent if ad.is_undefined_primal(operand) else None
                for cotangent, operand in passed
            ),
            *(None for _ in operands[count:]),
        ]

    def batch(values: Any, dims: Any, *, count: int, lanes: Any, **params: Any) -> Any:
        results = watched.bind(*values, count=count, lanes=(*lanes, tuple(dims)), **params)
        return results, dims[1 : 1 + count]

    ad.primitive_jvps[watched] = jvp
    ad.primitive_transposes[watched] = rule
    batching.primitive_batchers[watched] = batch
    mlir.register_lowering(watched, lambda ctx, _, *operands, count, **__: operands[:count])
    live_lanes.masked[watched] = 0

    def bind(*operands: Any, **params: Any) -> Sequence[Any]:
        return watched.bind(np.bool_(True), *operands, lanes=(), **params)

    return bind
