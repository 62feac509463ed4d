"""The primitive that calls a compiled loop, and its rules."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from callbax import _jax
from callbax._callbacks.pure import pure_callback
from callbax.interop.derivatives import Derivatives
from callbax.interop.dtypes import Resolution


def call(derivatives: Derivatives, resolution: Resolution, values: list[Any]) -> list[Any]:
    """Broadcasts and calls. Scalars stay scalars: the loop reads them again and again."""
    shape = jnp.broadcast_shapes(*(value.shape for value in values))
    values = [value if value.shape == () else jnp.broadcast_to(value, shape) for value in values]
    return _primitive.bind(*values, derivatives=derivatives, resolution=resolution)


def _abstract_eval(*avals: Any, resolution: Resolution, **_: Any) -> Any:
    shape = next((aval.shape for aval in avals if aval.shape), ())
    weak = all(aval.weak_type for aval in avals)
    return [_jax.ShapedArray(shape, dtype, weak_type=weak) for dtype in resolution.result_dtypes]


def _jvp(primals: Any, tangents: Any, *, derivatives: Derivatives, **params: Any) -> Any:
    answers = _primitive.bind(*primals, derivatives=derivatives, **params)
    given = [None if _jax.is_zero_tangent(tangent) else tangent for tangent in tangents]
    outputs = derivatives.jvp(primals, answers, given)
    return answers, [
        _jax.zero_tangent(answer) if output is None else output
        for answer, output in zip(answers, outputs, strict=True)
    ]


def _batch(args: Any, dims: Any, **params: Any) -> Any:
    size = next(arg.shape[d] for arg, d in zip(args, dims, strict=True) if d is not None)
    shape = next((s for s in map(_shape_without, args, dims) if s), ())

    def widen(arg: Any, d: int | None) -> Any:
        if d is None:
            return arg if arg.shape == () else jnp.broadcast_to(arg, (size, *shape))
        arg = _jax.move_axis(arg, d, 0)
        if arg.ndim == 1:  # a scalar for each lane
            arg = arg.reshape(size, *(1,) * len(shape))
        return jnp.broadcast_to(arg, (size, *shape))

    results = _primitive.bind(*map(widen, args, dims), **params)
    return results, [0] * len(results)


def _shape_without(arg: Any, d: int | None) -> tuple[int, ...]:
    return arg.shape if d is None else (*arg.shape[:d], *arg.shape[d + 1 :])


def _lower(ctx: Any, *operands: Any, derivatives: Derivatives, resolution: Resolution) -> Any:
    ufunc = derivatives.function.ufunc  # type: ignore[attr-defined]

    def on_host(*arrays: np.ndarray) -> Any:
        inputs = [a.astype(d) for a, d in zip(arrays, resolution.operands, strict=True)]
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
        results = ufunc(*inputs, sig=(*resolution.operands, *resolution.results))
        results = (results,) if ufunc.nout == 1 else results
        return [
            np.broadcast_to(np.asarray(r).astype(d), shape)
            for r, d in zip(results, resolution.result_dtypes, strict=True)
        ]

    return _jax.lower_fun(lambda *args: pure_callback(on_host, ctx.avals_out, *args))(
        ctx, *operands
    )


_primitive = _jax.Primitive("callbax_loop")
_primitive.multiple_results = True
_primitive.def_abstract_eval(_abstract_eval)
_primitive.def_impl(partial(_jax.apply_primitive, _primitive))
_jax.primitive_jvps[_primitive] = _jvp
_jax.primitive_batchers[_primitive] = _batch
_jax.register_lowering(_primitive, _lower)
