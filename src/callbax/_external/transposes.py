"""Linear external functions: def_transpose gives derivatives of any order, in both modes.

A linear function is its own derivative, and reverse mode applies its transpose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from callbax._external import masks
from callbax._external.call import Call
from callbax._external.host import on_host
from callbax._external.host_code import Layout, RuleOnHost
from callbax._external.linear import linear_call
from callbax._external.rules import Struct, is_inexact
from callbax._external.rules_on_host import batch_shape, fit
from callbax._host.function import Hashable
from callbax._jax import per_shard


@dataclasses.dataclass(frozen=True)
class Same:
    """An object as a part of a key, by identity.

    For external functions that are each other's transposes, whose comparison would have no end.
    """

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclasses.dataclass(frozen=True)
class TransposeRule:
    """The transpose in the positional arguments `argnums` (None: all that have inexact arrays)."""

    transpose: Hashable | Same
    argnums: tuple[int, ...] | None
    name = "transpose"
    is_jax_code = False
    returns_object = False

    @property
    def host_code(self) -> list[tuple[str, Hashable]]:
        return [] if isinstance(self.transpose, Same) else [(Transpose.kind, self.transpose)]

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        transpose = Transpose(Layout.of(call), self.transpose, self._linear_leaves(call))
        mask, arrays = leaves[: call.masked], leaves[call.masked :]
        residuals, operands = transpose.others(arrays), transpose.operands(arrays)
        linear = Linear(call, transpose)
        structs = call.result_structs
        if per_shard.is_distributed(list(map(jax.typeof, leaves))):
            avals = jax.make_jaxpr(lambda *leaves: on_host(call, leaves))(*leaves).out_avals
            structs = tuple(map(per_shard.typed_struct, avals))
        return linear_call(linear, [*mask, *residuals], operands, structs)

    def _linear_leaves(self, call: Call) -> tuple[int, ...]:
        """Which arrays of the arguments the call is linear in."""
        for struct in call.result_structs:
            if not is_inexact(struct):
                raise TypeError(
                    f"{call.where} has a result of dtype {struct.dtype}, so it is not linear over the "
                    "real or complex numbers, and def_transpose cannot hold for it"
                )
        slots, _ = call.structure.unflatten_without_static(range(len(call.structs)))
        if self.argnums is not None and max(self.argnums) >= len(slots):
            raise TypeError(
                f"def_transpose of {call.where} names argument {max(self.argnums)}, but the call has "
                f"{len(slots)} positional argument(s)"
            )
        argnums = range(len(slots)) if self.argnums is None else self.argnums
        found = [
            leaf
            for i in argnums
            for leaf in jax.tree.leaves(slots[i])
            if is_inexact(call.structs[leaf])
        ]
        if not found:
            raise TypeError(
                f"{call.where} has a transpose, but was called without a floating-point or complex "
                "array in the arguments that it is linear in"
            )
        return tuple(sorted(found))


@dataclasses.dataclass(frozen=True)
class Linear:
    """A call as a linear function of the arrays at `positions`; all others are its residuals."""

    call: Call
    transposed: Transpose

    @property
    def structs(self) -> list[Struct]:
        return self.transposed.operands(self.call.structs)

    def forward(self, residuals: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        mask, others = residuals[: self.call.masked], residuals[self.call.masked :]
        return on_host(self.call, [*mask, *self.transposed.merge(others, operands)])

    def transpose(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        transpose = self.transposed
        if not isinstance(transpose.function, Same):
            call = self.call.of_rule(transpose, transpose.structs, self.structs)
            return on_host(call, [*residuals, *cotangents])
        masked = self.call.masked
        with masks.entered(self.call, residuals[:masked]):
            values = transpose.call(residuals[masked:], cotangents)
        for value, struct in zip(values, self.structs, strict=True):
            if jnp.shape(value) != struct.shape or value.dtype != struct.dtype:
                raise TypeError(
                    f"{transpose.description} returned {jax.typeof(value).str_short()} for "
                    f"an argument of {struct.dtype}{list(struct.shape)}; its result must have the "
                    "shapes and dtypes of the arguments that the function is linear in"
                )
        return values

    def refusal(self, residuals: Sequence[int]) -> str:
        names = self.transposed.others(self.call.names())
        return (
            f"{self.call.where} is differentiated with respect to "
            f"{', '.join(names[i - self.call.masked] for i in residuals)}, but def_transpose says only "
            f"that it is linear in {', '.join(self.transposed.operands(self.call.names()))}. Pass what "
            "needs no derivative through jax.lax.stop_gradient, or define the derivative by defjvp."
        )


class Transpose(RuleOnHost):
    """It gets the arrays that the call is not linear in, not at `positions`, then the cotangents."""

    kind = "transpose"

    @property
    def structs(self) -> list[Struct]:
        """Of one lane's arrays."""
        return [*self.others(self.layout.structs), *self.layout.result_structs]

    def operands(self, items: Any) -> list[Any]:
        return [items[i] for i in self.positions]

    def others(self, items: Sequence[Any]) -> list[Any]:
        return [item for i, item in enumerate(items) if i not in self.positions]

    def merge(self, others: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        """All arrays of the arguments, in order."""
        remaining, given = iter(others), iter(operands)
        return [
            next(given) if i in self.positions else next(remaining)
            for i in range(len(self.layout.structs))
        ]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        count = len(self.layout.structs) - len(self.positions)
        values = self.call(arrays[:count], arrays[count:])
        batch = batch_shape(arrays, self.structs)
        structs = self.parts(self.operands(self.layout.structs), arrays)
        return [
            fit(value, struct, batch, self.description)
            for value, struct in zip(values, structs, strict=True)
        ]

    def call(self, others: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        """The cotangents of the arrays at `positions`."""
        layout = self.layout
        slots, _ = layout.structure.unflatten_without_static(range(len(layout.structs)))
        linear = [bool({*jax.tree.leaves(slot)} & {*self.positions}) for slot in slots]
        merged = self.merge(others, [None] * len(self.positions))
        args, kwargs = layout.structure.unflatten(merged)
        fixed = [arg for arg, is_linear in zip(args, linear, strict=True) if not is_linear]
        value = self.function.value(*fixed, layout.result_tree.unflatten(cotangents), **kwargs)
        returned = [slot for slot, is_linear in zip(slots, linear, strict=True) if is_linear]
        return self._flatten(value if len(returned) > 1 else (value,), returned)

    def _flatten(self, value: Any, slots: Sequence[Any]) -> list[Any]:
        found: dict[int, Any] = {}
        try:
            for slot, part in zip(slots, value, strict=True):
                leaves, tree = jax.tree.flatten(slot)
                found.update(zip(leaves, tree.flatten_up_to(part), strict=True))
        except (ValueError, TypeError):
            raise TypeError(
                f"{self.description} must return what the function is linear in: "
                f"{len(slots)} argument(s) of the structure(s) "
                f"{', '.join(str(jax.tree.structure(slot)) for slot in slots)}"
                f"{', as a tuple' if len(slots) > 1 else ''}; it returned "
                f"{jax.tree.structure(value if len(slots) > 1 else value[0])}"
            ) from None
        return self.operands(found)
