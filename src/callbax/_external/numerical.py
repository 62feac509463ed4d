"""Numerical derivatives: "central", "forward" and "complex_step".

A real coordinate x of the arguments is moved by a step h:

    central         (f(x + h) - f(x - h)) / 2h    error h² from truncation, eps/h from rounding
    forward         (f(x + h) - f(x)) / h         error h, and eps/h
    complex_step    Im f(x + i h) / h             error h²; nothing is subtracted, so h may be tiny

(Press et al., Numerical Recipes, section 5.7; Squire and Trapp, SIAM Review 40 (1998) 110.) A complex
coordinate has two real ones, its parts, so f need not be holomorphic. All points of a derivative, the
unmoved one too, go to the host as one batch. An elementwise function moves whole arguments.

Second derivatives are differences of first ones, in one batch again, with steps of their own. With
more than DENSE coordinates the matrix of partial derivatives is not formed in forward mode: that
takes one difference along the tangent; these derivatives are of first order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from callbax._external.call import Call
from callbax._external.complex_step import complex_call, complex_dtype
from callbax._external.linear import linear_call
from callbax._external.probing import assemble, basis, coordinates, is_complex, warn_if_costly
from callbax._external.rules import Struct, inexact_only, is_inexact, on_host, with_jvp
from callbax._external.steps import Steps

DENSE = 64

FlatFunction = Callable[[Sequence[Any]], list[Any]]


@dataclasses.dataclass(frozen=True)
class NumericalRule:
    """The derivative by differences. `step` is the user's (relative, absolute), or None."""

    kind: str
    step: tuple[float, float] | None

    @property
    def name(self) -> str:
        return f"derivative={self.kind!r}"

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
            wanted = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
            given = [tangents[i] for i in wanted]
            differences = Differences(call, self, wanted)
            if differences.elementwise or coordinates(differences.structs) <= DENSE:
                results, partials = differences.first(leaves)
                return results, differences.of_results(differences.contract(partials, given))
            structs = inexact_only(call.result_structs)
            return differentiable(*leaves), linear_call(differences, leaves, given, structs)

        differentiable = with_jvp(call, lambda *leaves: on_host(call, leaves), jvp)
        return differentiable(*leaves)


@dataclasses.dataclass(frozen=True)
class Differences:
    """Differences of a call in the arrays `wanted`, counted with the mask if it has one.

    "Partials" are, for each inexact result, its derivatives in each direction along a leading axis. A
    direction is a coordinate; of elementwise functions, a whole array, or its real or imaginary part.
    """

    call: Call
    rule: NumericalRule
    wanted: tuple[int, ...]

    @property
    def structs(self) -> list[Struct]:
        return [self.call.structs[i] for i in self._arguments]

    @property
    def _arguments(self) -> list[int]:
        """Which of the call's structs are `wanted`."""
        return [i - self.call.masked for i in self.wanted]

    @property
    def elementwise(self) -> bool:
        return self.call.external.options.elementwise

    def first(self, leaves: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Results and partials, differentiable once more."""

        def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
            again = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
            outer = dataclasses.replace(self, wanted=again)
            inner = functools.partial(self._flat, order=2)
            _, partials = outer.of(inner, leaves, self._steps(order=2).outer())
            return function(*leaves), outer.contract(partials, [tangents[i] for i in again])

        function = with_jvp(self.call, lambda *leaves: self._flat(leaves, order=1), jvp)
        flat = function(*leaves)
        count = len(self.call.result_structs)
        return flat[:count], flat[count:]

    def _flat(self, leaves: Sequence[Any], order: int) -> list[Any]:
        """Results, then partials; by the host, so that they have no derivative."""
        return sum(self.of(self._on_host, leaves, self._steps(order)), [])

    def _on_host(self, leaves: Sequence[Any]) -> list[Any]:
        return self._final(self.call, leaves)

    def _final(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        """The host call, which has no derivative of its own."""
        return with_jvp(call, lambda *leaves: on_host(call, leaves), self._refuse)(*leaves)

    def _refuse(self, leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
        raise ValueError(
            f"{self.call.where} has {self.rule.name}, which goes to the second order; give a JAX rule "
            "(defjvp) for higher ones"
        )

    def _steps(self, order: int) -> Steps:
        dtypes = tuple(struct.dtype for struct in inexact_only(self.call.result_structs))
        return Steps(self.rule.kind, self.rule.step, order, dtypes)

    def of(
        self, function: FlatFunction, leaves: Sequence[Any], steps: Steps
    ) -> tuple[list[Any], list[Any]]:
        """Results and partials of `function`, by one batched call of it."""
        sizes = [steps.size(leaves[i]) for i in self.wanted]
        if self.elementwise:
            scalars = basis([Struct((), struct.dtype) for struct in self.structs])
            units = [
                unit.reshape(-1, *(1,) * jnp.ndim(size))
                for unit, size in zip(scalars, sizes, strict=True)
            ]
        else:
            units = basis(self.structs)
        moves = [unit * size[None] for unit, size in zip(units, sizes, strict=True)]
        results, differences, widths = self._evaluate(function, leaves, moves, steps.kind)
        return results, [self._quotients(difference, widths) for difference in differences]

    def _evaluate(
        self, function: FlatFunction, leaves: Sequence[Any], moves: Sequence[Any], kind: str
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Results, differences of the inexact ones, and how far the arguments were moved for these.

        `moves` has, for each array `wanted`, its moves along a leading axis.
        """
        origins = [jnp.asarray(leaves[i])[None] for i in self.wanted]
        if kind == "complex_step":
            function = functools.partial(self._final, complex_call(self.call, self._arguments))
            dtypes = [complex_dtype(move.dtype) for move in moves]
            origins = [o.astype(dtype) for o, dtype in zip(origins, dtypes, strict=True)]
            moves = [1j * move.astype(dtype) for move, dtype in zip(moves, dtypes, strict=True)]
        above = [origin + move for origin, move in zip(origins, moves, strict=True)]
        lower = [origin - move for origin, move in zip(origins, moves, strict=True)]
        parts = [origins, above, lower] if kind == "central" else [origins, above]
        values = self._at(
            function, leaves, [jnp.concatenate(part) for part in zip(*parts, strict=True)]
        )
        results = [value[0] for value in values]
        inexact = [value for value in values if is_inexact(value)]
        if kind == "complex_step":
            structs = self.call.result_structs
            real = [jnp.real(r).astype(s.dtype) for r, s in zip(results, structs, strict=True)]
            return real, [jnp.imag(value[1:]) for value in inexact], [jnp.imag(m) for m in moves]
        # What was added is not quite the move, after rounding.
        if kind == "forward":
            widths = [a - origin for a, origin in zip(above, origins, strict=True)]
            return results, [value[1:] - value[:1] for value in inexact], widths
        count = len(moves[0])
        widths = [a - b for a, b in zip(above, lower, strict=True)]
        return results, [v[1 : 1 + count] - v[1 + count :] for v in inexact], widths

    def _at(
        self, function: FlatFunction, leaves: Sequence[Any], points: Sequence[Any]
    ) -> list[Any]:
        """The flat results at all points, in one call."""
        count = len(points[0])
        warn_if_costly(
            count,
            lambda count: (
                f"the numerical derivative of {self.call.where} evaluates it at {count} points; define "
                "one by host code (def_host_vjp, for many arguments and few results)"
            ),
        )
        given = dict(zip(self.wanted, points, strict=True))
        axes = [0 if i in given else None for i in range(len(leaves))]
        moved = [given.get(i, leaf) for i, leaf in enumerate(leaves)]
        return jax.vmap(function, in_axes=(axes,), axis_size=count)(moved)

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
        """Tangents of the results: partials times the tangents' coordinates."""
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

    def of_results(self, tangents: Sequence[Any]) -> list[Any]:
        """In the dtypes of the results: complex steps compute in one that complex numbers have."""
        structs = inexact_only(self.call.result_structs)
        return [t.astype(struct.dtype) for t, struct in zip(tangents, structs, strict=True)]

    # As a LinearFunction of the tangents, where there are many coordinates.

    def forward(self, residuals: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        """One difference along the tangents."""
        steps = self._steps(order=1)
        # No number is moved farther than its own step.
        limits = [
            jnp.min(jnp.where(t == 0, jnp.inf, steps.size(residuals[i]) / jnp.abs(t)))
            for i, t in zip(self.wanted, operands, strict=True)
        ]
        limit = functools.reduce(jnp.minimum, limits)
        step = jnp.where(jnp.isinf(limit), 1, limit)
        moves = [(step.astype(jnp.finfo(t.dtype).dtype) * t)[None] for t in operands]
        _, differences, _ = self._evaluate(self._on_host, residuals, moves, steps.kind)
        width = 2 * step if steps.kind == "central" else step
        quotients = [d[0] / width.astype(jnp.finfo(d.dtype).dtype) for d in differences]
        return self.of_results(quotients)

    def transpose(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        count = len(self.call.result_structs)
        return assemble(self._flat(residuals, order=1)[count:], self.structs, cotangents)

    def refusal(self, residuals: Sequence[int]) -> str:
        return (
            f"the numerical derivative of {self.call.where} in more than {DENSE} numbers is of first "
            "order: it cannot be differentiated again. Give a JAX rule (defjvp) for higher orders."
        )
