"""Numerical derivatives: differences along directions, and how far a number is moved for them.

A real coordinate x of the arguments is moved by a step h:

    central         (f(x + h) - f(x - h)) / 2h    error h² from truncation, eps/h from rounding
    forward         (f(x + h) - f(x)) / h         error h, and eps/h
    complex_step    Im f(x + i h) / h             error h²; nothing is subtracted, so h may be tiny

A complex coordinate has two real ones, its parts, so f need not be holomorphic: its tangent is the sum
of what each part of the arguments' tangents contributes.

The step of x is max(relative |x|, absolute). Unless the user says otherwise both are a power of eps,
the relative spacing of the coarsest dtype that takes part, which balances truncation and rounding:

    kind            first order    second order    error, relative to the function's scale
    central         eps^(1/3)      eps^(1/4)       eps^(2/3), eps^(1/2)
    forward         eps^(1/2)      eps^(1/3)       eps^(1/2), eps^(1/3)
    complex_step    eps^(3/2)      central of it   eps, eps^(2/3)

(Press et al., Numerical Recipes, section 5.7; Squire and Trapp, SIAM Review 40 (1998) 110; for
differences of differences the rounding error is eps / h², and the truncation error as before.)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from callbax._external.linear import basis, is_complex

Struct: TypeAlias = jax.ShapeDtypeStruct

EXPONENTS = {
    ("central", 1): 1 / 3,
    ("central", 2): 1 / 4,
    ("forward", 1): 1 / 2,
    ("forward", 2): 1 / 3,
    ("complex_step", 1): 3 / 2,
    ("complex_step", 2): 3 / 2,
}


@dataclasses.dataclass(frozen=True)
class Steps:
    """How to move numbers, for derivatives of that order.

    Attributes:
      kind: "central", "forward" or "complex_step".
      given: the user's (relative, absolute), or None.
      order: 1, or 2 where the differences are differentiated again.
      dtypes: of the function's results.
    """

    kind: str
    given: tuple[float, float] | None
    order: int
    dtypes: tuple[Any, ...]

    def size(self, x: Any) -> Any:
        """The step of each number of `x`."""
        x = jnp.asarray(x)
        real = jnp.finfo(x.dtype).dtype
        if self.given is not None:
            relative, absolute = self.given
        else:
            eps = max(float(jnp.finfo(dtype).eps) for dtype in (x.dtype, *self.dtypes))
            relative = absolute = eps ** EXPONENTS[self.kind, self.order]
        return jnp.maximum(relative * jnp.abs(x), absolute).astype(real)

    def outer(self) -> Steps:
        """Those of the second differences, whose points are the first ones' origins."""
        if self.kind == "complex_step":
            return Steps("central", None, 1, self.dtypes)
        return self


def parse_step(where: str, step: Any) -> tuple[float, float] | None:
    """What `step=` says, as (relative, absolute).

    Raises:
      TypeError: it is neither a number nor a pair.
      ValueError: it is not positive and finite.
    """
    if step is None:
        return None
    pair = step if isinstance(step, (tuple, list)) else (step, step)
    try:
        relative, absolute = map(float, pair)
    except (TypeError, ValueError):
        raise TypeError(
            f"external function {where}: step={step!r} must be a number, or a pair (relative, "
            "absolute): x is moved by max(relative * |x|, absolute)"
        ) from None
    if not (0 <= relative < float("inf") and 0 < absolute < float("inf")):
        raise ValueError(
            f"external function {where}: step={step!r} must be positive and finite; of a pair "
            "(relative, absolute), relative may be zero"
        )
    return relative, absolute


# Takes lists of arrays with a leading axis of points, the origin's first; returns, for each, the list
# of the function's results there.
Evaluate = Callable[[Sequence[Sequence[Any]]], Sequence[Sequence[Any]]]


@dataclasses.dataclass(frozen=True)
class Directions:
    """Derivatives of a function in some of its arguments, as "partials".

    These are, for each inexact result, its derivatives in each direction, along a leading axis. A
    direction is a coordinate; of elementwise functions, a whole array, or its real or imaginary part.

    Attributes:
      structs: of the arguments that are moved.
    """

    structs: Sequence[Struct]
    elementwise: bool

    def partials(
        self, evaluate: Evaluate, origins: Sequence[Any], steps: Steps
    ) -> tuple[list[Any], list[Any]]:
        """Results at the origins, and partials. Steps are constant when these are differentiated."""
        sizes = [jax.lax.stop_gradient(steps.size(origin)) for origin in origins]
        if self.elementwise:
            scalars = basis([Struct((), struct.dtype) for struct in self.structs])
            units = [
                unit.reshape(-1, *(1,) * jnp.ndim(size))
                for unit, size in zip(scalars, sizes, strict=True)
            ]
        else:
            units = basis(self.structs)
        moves = [unit * size[None] for unit, size in zip(units, sizes, strict=True)]
        results, differences, widths = differences_along(evaluate, origins, moves, steps.kind)
        return results, [self._quotients(difference, widths) for difference in differences]

    def _quotients(self, difference: Any, widths: Sequence[Any]) -> Any:
        """Partials of one result. In each direction one array, or one number, was moved."""
        real = jnp.finfo(difference.dtype).dtype
        parts = [jnp.real(w) + jnp.imag(w) if is_complex(w) else w for w in widths]
        if not self.elementwise:
            parts = [part.sum(range(1, part.ndim)) for part in parts]
        width = functools.reduce(jnp.add, [part.astype(real) for part in parts])
        inner = (1,) * (difference.ndim - width.ndim)
        if self.elementwise:
            return difference / width.reshape(len(width), *inner, *width.shape[1:])
        return difference / width.reshape(len(width), *inner)

    def contract(self, partials: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        """Tangents of the inexact results: partials times the tangents' coordinates."""
        parts = []
        for tangent in tangents:
            parts += [jnp.real(tangent), jnp.imag(tangent)] if is_complex(tangent) else [tangent]
        results = []
        for partial in partials:
            real = jnp.finfo(partial.dtype).dtype
            if self.elementwise:
                terms = [
                    row * jnp.broadcast_to(part.astype(real), row.shape)
                    for row, part in zip(partial, parts, strict=True)
                ]
                results.append(sum(terms[1:], terms[0]))
            else:
                flat = jnp.concatenate([part.ravel() for part in parts]).astype(partial.dtype)
                results.append(jnp.tensordot(flat, partial, 1, precision=jax.lax.Precision.HIGHEST))
        return results


def differences_along(
    evaluate: Evaluate, origins: Sequence[Any], moves: Sequence[Any], kind: str
) -> tuple[list[Any], list[Any], list[Any]]:
    """Results at the origins, differences of the inexact ones, and how far arguments were moved.

    Args:
      moves: of each argument, along a leading axis.
    """
    origins = [jnp.asarray(origin)[None] for origin in origins]
    if kind == "complex_step":
        dtypes = [complex_dtype(move.dtype) for move in moves]
        origins = [o.astype(dtype) for o, dtype in zip(origins, dtypes, strict=True)]
        moves = [1j * move.astype(dtype) for move, dtype in zip(moves, dtypes, strict=True)]
    above = [origin + move for origin, move in zip(origins, moves, strict=True)]
    lower = [origin - move for origin, move in zip(origins, moves, strict=True)]
    points = [origins, above, lower] if kind == "central" else [origins, above]
    evaluated = evaluate(points)
    results = [value[0] for value in evaluated[0]]
    values = [_inexact_only(part) for part in evaluated]
    if kind == "complex_step":
        return results, [jnp.imag(value) for value in values[1]], [jnp.imag(m) for m in moves]
    subtracted = values[-1] if kind == "central" else values[0]
    below = lower if kind == "central" else origins
    differences = [a - b for a, b in zip(values[1], subtracted, strict=True)]
    # What was added is not quite the move, after rounding.
    return (
        results,
        differences,
        [jax.lax.stop_gradient(a - b) for a, b in zip(above, below, strict=True)],
    )


def complex_dtype(dtype: Any) -> np.dtype:
    return np.promote_types(dtype, np.complex64)


def _inexact_only(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if jnp.issubdtype(value.dtype, jnp.inexact)]
