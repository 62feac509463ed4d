"""Derivatives by host code: def_host_jvp and def_host_vjp.

With J the Jacobian of the call, a host jvp computes J t from tangents t, and a host vjp its transpose
applied to cotangents. A linear call holds both, so forward mode takes one and reverse mode the other.
If only one is given, probing with a basis gives the other, in one batched call of the host.

The derivative of these calls in the primals is not known: host rules are of first order. So are those
that PyTorch computes (derivative="torch"), which have both maps, and get tensors. They compute the
function again, so that nothing is kept between the calls.

A host vjp may get an object that the host function has made. Then a call that is differentiated has one
more result, the object's key (_runtime/residuals.py), which is one more residual of its derivative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from callbax._external.call import Call, Rule
from callbax._external.host import on_host
from callbax._external.host_code import HostCode, Layout, RuleOnHost
from callbax._external.linear import linear_call, probe
from callbax._external.numerical import NumericalRule
from callbax._external.options import Options
from callbax._external.rules import (
    Struct,
    inexact_only,
    is_inexact,
    result_leaves,
    typed_structs,
    with_jvp,
)
from callbax._external.rules_on_host import (
    Forward,
    HostJvp,
    HostVjp,
    Keeping,
    VjpOfObject,
    WithObject,
    batch_shape,
)
from callbax._host import torch_derivatives
from callbax._host.function import Hashable
from callbax._runtime.residuals import KEY


@dataclasses.dataclass(frozen=True)
class HostRule:
    """Derivatives by host code: one of the two functions, or both.

    The vjp is a `WithObject` if it gets the host function's object.
    """

    jvp: Hashable | None = None
    vjp: Hashable | WithObject | None = None
    is_jax_code = False

    @property
    def returns_object(self) -> bool:
        return isinstance(self.vjp, WithObject)

    @property
    def name(self) -> str:
        named = {"host_jvp": self.jvp, "host_vjp": self.vjp}
        return ", ".join(name for name, function in named.items() if function is not None)

    @property
    def host_code(self) -> list[tuple[str, Any]]:
        of_vjp = (Forward, Keeping, VjpOfObject) if self.returns_object else (HostVjp,)
        given = [(HostJvp.kind, self.jvp), *((rule.kind, self.vjp) for rule in of_vjp)]
        return [(kind, function) for kind, function in given if function is not None]

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        return self._differentiable(call, False)(*leaves)  # type: ignore[no-any-return]

    def _differentiable(self, call: Call, keeping: bool) -> Callable[..., Any]:
        """The call with its derivative; `keeping`: it has the key of its object as its last result."""

        def function(*leaves: Any) -> list[Any]:
            return self._keep(call, leaves) if keeping else on_host(call, leaves)

        def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
            values = self._differentiable(call, self.returns_object)(*leaves)
            results = values[: len(call.result_structs)]
            tangents = tangents[call.masked :]
            wanted = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
            derivative = HostDerivative(call, self, wanted)
            residuals = [*leaves, *values] if self.vjp else leaves
            operands = [tangents[i] for i in wanted]
            structs = typed_structs(results)
            derivatives = linear_call(derivative, residuals, operands, structs)
            return values if keeping else results, derivatives

        return with_jvp(call, function, jvp)

    def _keep(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        if call.definition.vmap_rule is not None:
            # Its batches are not calls of the host function.
            return [*on_host(call, leaves), jnp.zeros(KEY.shape, KEY.dtype)]
        host = Keeping(Layout.of(call), self.vjp, ())
        return on_host(call.of_rule(host, call.structs, [*call.result_structs, KEY]), leaves)


def rules_of(function: Callable[..., Any], options: Options) -> tuple[Rule, ...]:
    """The derivative that `derivative=` asks for, if it does."""
    if options.derivative is None:
        return ()
    if options.derivative == "torch":
        return (TorchRule(HostCode(function)),)
    return (NumericalRule(options.derivative, options.step),)


@dataclasses.dataclass(frozen=True)
class HostDerivative:
    """The derivative of a call with respect to the arrays `wanted`, as a linear function.

    Residuals are the call's arrays (the mask too), then the results if there is a host vjp, and the key
    of the call's object if that gets one.
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
        kind = VjpOfObject if self.rule.returns_object else HostVjp
        host = kind(Layout.of(self.call), self.rule.vjp, self.wanted)
        call = self.call.of_rule(host, host.structs, self.argument_structs)
        keys = 1 if self.rule.returns_object else 0
        first = len(residuals) - keys
        return on_host(call, [*residuals[:first], *cotangents, *residuals[first:]])

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


# -- by PyTorch ------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class TorchRule:
    """What PyTorch computes of a function of tensors."""

    function: HostCode
    is_jax_code = False
    returns_object = False
    name = "derivative='torch'"

    @property
    def host_code(self) -> list[tuple[str, Any]]:
        return [(TorchJvp.kind, self.function), (TorchVjp.kind, self.function)]

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        def jvp(leaves: Sequence[Any], tangents: Sequence[Any]) -> Any:
            tangents = tangents[call.masked :]
            wanted = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
            results = differentiable(*leaves)
            derivative = TorchDerivative(call, self.function, wanted)
            operands = [tangents[i] for i in wanted]
            return results, linear_call(derivative, leaves, operands, typed_structs(results))

        differentiable = with_jvp(call, lambda *leaves: on_host(call, leaves), jvp)
        return differentiable(*leaves)  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class TorchDerivative:
    """The derivative of a call in the arrays `wanted`, as a linear function.

    Residuals are the call's arrays (the mask too).
    """

    call: Call
    function: HostCode
    wanted: tuple[int, ...]

    def forward(self, residuals: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        return self._on_host(TorchJvp, self.call.result_structs, [*residuals, *operands])

    def transpose(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        structs = [self.call.structs[i] for i in self.wanted]
        return self._on_host(TorchVjp, structs, [*residuals, *cotangents])

    def _on_host(
        self, kind: type[TorchJvp | TorchVjp], results: Sequence[Struct], leaves: Sequence[Any]
    ) -> list[Any]:
        host = kind(Layout.of(self.call), self.function, self.wanted)
        call = self.call.of_rule(host, host.structs, inexact_only(results), of_tensors=True)
        return on_host(call, leaves)

    def refusal(self, residuals: Sequence[int]) -> str:
        return (
            f"the derivative of {self.call.where} is PyTorch's (derivative='torch'), which is of first "
            "order: it cannot be differentiated again. For higher orders give a JAX rule (defjvp), "
            "whose parts may be external functions with derivatives of their own."
        )


class TorchJvp(RuleOnHost):
    """It gets the tensors of the arguments, then the tangents of those at `positions`."""

    kind = "torch jvp"

    @property
    def structs(self) -> list[Struct]:
        structs = self.layout.structs
        return [*structs, *(structs[i] for i in self.positions)]

    def __call__(self, *tensors: Any) -> list[Any]:
        return torch_derivatives.jvp(*_split(self, self.structs, tensors))


class TorchVjp(RuleOnHost):
    """It gets the tensors of the arguments, then the results' cotangents."""

    kind = "torch vjp"

    @property
    def structs(self) -> list[Struct]:
        return [*self.layout.structs, *inexact_only(self.layout.result_structs)]

    def __call__(self, *tensors: Any) -> list[Any]:
        return torch_derivatives.vjp(*_split(self, self.structs, tensors))


def _split(
    host: RuleOnHost, structs: Sequence[Struct], tensors: Sequence[Any]
) -> tuple[torch_derivatives.Flat, list[Any], list[Any]]:
    """The function of the tensors at the rule's positions, these, and what follows the primals.

    Where one call handles a whole batch, all have its dimensions in front.
    """
    layout, rule = host.layout, host.description
    tensors = torch_derivatives.repeated(tensors, batch_shape(tensors, structs))
    primals, others = tensors[: len(layout.structs)], tensors[len(layout.structs) :]

    def function(*moved: Any) -> tuple[Any, ...]:
        given = dict(zip(host.positions, moved, strict=True))
        args, kwargs = layout.structure.unflatten([given.get(i, x) for i, x in enumerate(primals)])
        results = result_leaves(layout, host.function.value(*args, **kwargs), rule)
        pairs = zip(results, layout.result_structs, strict=True)
        return tuple(result for result, struct in pairs if is_inexact(struct))

    return function, [primals[i] for i in host.positions], list(others)
