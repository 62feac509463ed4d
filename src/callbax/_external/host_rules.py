"""Derivatives by host code: def_host_jvp and def_host_vjp.

With J the Jacobian of the call, a host jvp computes J t from tangents t, and a host vjp its transpose
applied to cotangents. A linear call holds both, so forward mode takes one and reverse mode the other.
If only one is given, probing with a basis gives the other, in one batched call of the host.

The derivative of these calls in the primals is not known: host rules are of first order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from callbax._external.call import Call
from callbax._external.host import on_host
from callbax._external.host_code import Layout, RuleOnHost
from callbax._external.linear import linear_call, probe
from callbax._external.rules import (
    Struct,
    argument_leaves,
    inexact_only,
    is_inexact,
    result_leaves,
    typed_structs,
    with_jvp,
)
from callbax._host.function import Hashable


@dataclasses.dataclass(frozen=True)
class HostRule:
    """Derivatives by host code: one of the two functions, or both."""

    jvp: Hashable | None = None
    vjp: Hashable | None = None
    is_jax_code = False

    @property
    def name(self) -> str:
        named = {"host_jvp": self.jvp, "host_vjp": self.vjp}
        return ", ".join(name for name, function in named.items() if function is not None)

    @property
    def host_code(self) -> list[tuple[str, Hashable]]:
        given = ((HostJvp.kind, self.jvp), (HostVjp.kind, self.vjp))
        return [(kind, function) for kind, function in given if function is not None]

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
            results = differentiable(*leaves)
            tangents = tangents[call.masked :]
            wanted = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
            derivative = HostDerivative(call, self, wanted)
            residuals = [*leaves, *results] if self.vjp else leaves
            operands = [tangents[i] for i in wanted]
            structs = typed_structs(results)
            return results, linear_call(derivative, residuals, operands, structs)

        differentiable = with_jvp(call, lambda *leaves: on_host(call, leaves), jvp)
        return differentiable(*leaves)


@dataclasses.dataclass(frozen=True)
class HostDerivative:
    """The derivative of a call with respect to the arrays `wanted`, as a linear function.

    Residuals are the call's arrays (the mask too), then the results if there is a host vjp.
    """

    call: Call
    rule: HostRule
    wanted: tuple[int, ...]

    @property
    def argument_structs(self) -> list[Struct]:
        return [self.call.structs[i] for i in self.wanted]

    @property
    def result_structs(self) -> list[Struct]:
        return inexact_only(self.call.result_structs)

    def forward(self, residuals: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        if self.rule.jvp is None:
            return probe(
                lambda cotangents: self.transpose(residuals, cotangents),
                self.result_structs,
                operands,
                lambda count: self._costly("forward", "def_host_vjp", "def_host_jvp", count),
            )
        host = HostJvp(Layout.of(self.call), self.rule.jvp, self.wanted)
        call = self.call.of_rule(host, host.structs, self.result_structs)
        leaves = residuals[: self.call.masked + len(self.call.structs)]
        return on_host(call, [*leaves, *operands])

    def transpose(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        if self.rule.vjp is None:
            return probe(
                lambda tangents: self.forward(residuals, tangents),
                self.argument_structs,
                cotangents,
                lambda count: self._costly("reverse", "def_host_jvp", "def_host_vjp", count),
            )
        host = HostVjp(Layout.of(self.call), self.rule.vjp, self.wanted)
        call = self.call.of_rule(host, host.structs, self.argument_structs)
        return on_host(call, [*residuals, *cotangents])

    def _costly(self, mode: str, given: str, other: str, count: int) -> str:
        return (
            f"{self.call.where} has {given} only, so its {mode}-mode derivative calls that for "
            f"{count} basis vectors; define {other} too"
        )

    def refusal(self, residuals: Sequence[int]) -> str:
        return (
            f"the derivative of {self.call.where} is host code ({self.rule.name}), which is of first "
            "order: it cannot be differentiated again. For higher orders give a JAX rule (defjvp), "
            "whose parts may be external functions with derivatives of their own."
        )


class HostJvp(RuleOnHost):
    """It gets the arrays of the arguments, then the tangents of those at `positions`."""

    kind = "host jvp"

    @property
    def structs(self) -> list[Struct]:
        """Of one lane's arrays."""
        structs = self.layout.structs
        return [*structs, *(structs[i] for i in self.positions)]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        call, rule = self.layout, self.description
        primals = arrays[: len(call.structs)]
        given = dict(zip(self.positions, arrays[len(call.structs) :], strict=True))
        tangents = [
            (given[i] if i in given else np.zeros_like(primal)) if is_inexact(struct) else None
            for i, (primal, struct) in enumerate(zip(primals, call.structs, strict=True))
        ]
        args, kwargs = call.structure.unflatten(primals)
        of_args, _ = call.structure.unflatten_without_static(tangents)
        values = result_leaves(call, self.function.value(args, of_args, **kwargs), rule)
        batch = batch_shape(arrays, self.structs)
        structs = self.parts(call.result_structs, arrays)
        return [
            fit(value, struct, batch, rule)
            for value, struct in zip(values, structs, strict=True)
            if is_inexact(struct)
        ]


class HostVjp(RuleOnHost):
    """It gets the arrays of arguments and results, then the results' cotangents."""

    kind = "host vjp"

    @property
    def structs(self) -> list[Struct]:
        """Of one lane's arrays."""
        results = self.layout.result_structs
        return [*self.layout.structs, *results, *inexact_only(results)]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        call, rule = self.layout, self.description
        first, second = len(call.structs), len(call.structs) + len(call.result_structs)
        primals, results, given = arrays[:first], arrays[first:second], iter(arrays[second:])
        cotangents = [next(given) if is_inexact(s) else None for s in call.result_structs]
        args, kwargs = call.structure.unflatten(primals)
        of_result = [call.result_tree.unflatten(leaves) for leaves in (results, cotangents)]
        values = argument_leaves(call, self.function.value(args, *of_result, **kwargs), rule)
        batch = batch_shape(arrays, self.structs)
        if call.elementwise:
            values = [
                _sum_broadcast(value, struct, len(batch))
                for value, struct in zip(values, call.structs, strict=True)
            ]
        structs = self.parts(call.structs, arrays)
        return [fit(values[i], structs[i], batch, rule) for i in self.positions]


def batch_shape(arrays: Sequence[np.ndarray], structs: Sequence[Struct]) -> tuple[int, ...]:
    """The dimensions that `vmap` put in front, where one call handles a whole batch."""
    fronts = {
        array.shape[: array.ndim - len(struct.shape)]
        for array, struct in zip(arrays, structs, strict=True)
    }
    return np.broadcast_shapes(*fronts)


def _sum_broadcast(value: Any, struct: Struct, batch: int) -> Any:
    """The cotangent of an array, from that of its elements repeated to the result's shape."""
    if value is None or np.ndim(value) != batch + len(struct.shape):
        return value
    value = np.asarray(value)
    repeated = [batch + i for i, size in enumerate(struct.shape) if size == 1]
    return value.sum(tuple(repeated), keepdims=True) if repeated else value


def fit(value: Any, struct: Struct, batch: tuple[int, ...], rule: str) -> np.ndarray:
    """What a host rule returned for one array, with just the shape and dtype it must have.

    None is zero. What is the same for a whole batch need not be repeated.
    """
    shape = (*batch, *struct.shape)
    if value is None:
        return np.zeros(shape, struct.dtype)
    array = np.asarray(value)
    if np.iscomplexobj(array) and not np.issubdtype(struct.dtype, np.complexfloating):
        raise TypeError(
            f"{rule} returned a complex array where the derivative is real ({struct.dtype}); for a "
            "real argument of a complex function, return the real part"
        )
    if array.shape != shape and not _is_unrepeated(array.shape, shape, len(batch)):
        raise ValueError(
            f"{rule} returned an array of shape {array.shape} where the derivative has shape {shape}"
        )
    array = array.astype(struct.dtype, copy=False)
    return array if array.shape == shape else np.broadcast_to(array, shape)


def _is_unrepeated(shape: tuple[int, ...], expected: tuple[int, ...], batch: int) -> bool:
    return (
        len(shape) == len(expected)
        and shape[batch:] == expected[batch:]
        and all(size in (1, full) for size, full in zip(shape, expected, strict=True))
    )
