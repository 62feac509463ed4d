"""The derivatives "central", "forward" and "complex_step" of external functions.

What is computed is said in differences.py. All points of a derivative, the unmoved one too, go to the
host as one batch. An elementwise function moves whole arguments.

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
import numpy as np

from callbax._external.call import Call
from callbax._external.differences import (
    Directions,
    Evaluate,
    Steps,
    complex_dtype,
    differences_along,
)
from callbax._external.host import on_host
from callbax._external.host_code import ComplexOnly, HostCode, Layout
from callbax._external.linear import assemble, coordinates, is_complex, linear_call, warn_if_costly
from callbax._external.rules import (
    Struct,
    inexact_only,
    is_inexact,
    typed_structs,
    with_jvp,
)

DENSE = 64

FlatFunction = Callable[[Sequence[Any]], list[Any]]


@dataclasses.dataclass(frozen=True)
class NumericalRule:
    """The derivative by differences. `step` is the user's (relative, absolute), or None."""

    kind: str
    step: tuple[float, float] | None
    is_jax_code = True
    returns_object = False
    host_code = ()

    @property
    def name(self) -> str:
        return f"derivative={self.kind!r}"

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
            wanted = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
            given = [tangents[i] for i in wanted]
            differences = Differences(call, self, wanted)
            count = coordinates(differences.structs)
            # A symbolic count may be large.
            is_dense = isinstance(count, int) and count <= DENSE
            if differences.directions.elementwise or is_dense:
                results, partials = differences.first(leaves)
                return results, differences.of_results(
                    differences.directions.contract(partials, given)
                )
            results = differentiable(*leaves)
            return results, linear_call(differences, leaves, given, typed_structs(results))

        differentiable = with_jvp(call, lambda *leaves: on_host(call, leaves), jvp)
        return differentiable(*leaves)


@dataclasses.dataclass(frozen=True)
class Differences:
    """Differences of a call in the arrays `wanted`, counted with the mask if it has one."""

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
    def directions(self) -> Directions:
        return Directions(self.structs, self.call.options.elementwise)

    def first(self, leaves: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Results and partials, differentiable once more."""

        def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
            again = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
            outer = dataclasses.replace(self, wanted=again)
            inner = functools.partial(self._flat, order=2)
            _, partials = outer.of(inner, leaves, self._steps(order=2).outer())
            return function(*leaves), outer.directions.contract(
                partials, [tangents[i] for i in again]
            )

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
        origins = [leaves[i] for i in self.wanted]
        evaluate = self._evaluator(function, leaves, steps)
        results, partials = self.directions.partials(evaluate, origins, steps)
        return self._real(results, steps), partials

    def _evaluator(self, function: FlatFunction, leaves: Sequence[Any], steps: Steps) -> Evaluate:
        """Evaluates all points in one call."""
        if steps.kind == "complex_step":
            function = functools.partial(self._final, complex_call(self.call, self._arguments))

        def evaluate(points: Sequence[Sequence[Any]]) -> list[list[Any]]:
            joined = [jnp.concatenate(part) for part in zip(*points, strict=True)]
            values = self._at(function, leaves, joined)
            ends = np.cumsum([len(part[0]) for part in points])[:-1].tolist()
            return [list(part) for part in zip(*(jnp.split(v, ends) for v in values), strict=True)]

        return evaluate

    def _real(self, results: Sequence[Any], steps: Steps) -> list[Any]:
        """Results in their own dtypes: those of complex steps come as complex numbers."""
        if steps.kind != "complex_step":
            return list(results)
        structs = self.call.result_structs
        return [jnp.real(r).astype(s.dtype) for r, s in zip(results, structs, strict=True)]

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
        origins = [residuals[i] for i in self.wanted]
        evaluate = self._evaluator(self._on_host, residuals, steps)
        _, differences, _ = differences_along(evaluate, origins, moves, steps.kind)
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


def complex_call(call: Call, wanted: Sequence[int]) -> Call:
    """The call with the arrays `wanted` complex, and complex results.

    Raises:
      TypeError: some of them are complex already.
    """
    for struct in (*(call.structs[i] for i in wanted), *call.result_structs):
        if is_complex(struct):
            raise TypeError(
                f"{call.where} has derivative='complex_step', which is for real arguments and results, "
                f"but {struct.dtype} is among them; use derivative='central'"
            )
    definition = dataclasses.replace(
        call.definition,
        function=ComplexOnly(
            HostCode(call.definition.function),
            tuple(map(is_inexact, call.result_structs)),
            Layout.of(call).owner,
        ),
        options=dataclasses.replace(call.options, name=None),
        vmap_rule=None,  # it may know real arrays only
    )
    structs = [_complex(s) if i in wanted else s for i, s in enumerate(call.structs)]
    results = [_complex(s) if is_inexact(s) else s for s in call.result_structs]
    return dataclasses.replace(
        call, definition=definition, structs=tuple(structs), result_structs=tuple(results)
    )


def _complex(struct: Struct) -> Struct:
    return Struct(struct.shape, complex_dtype(struct.dtype))
