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

from callbax._external.call import Call
from callbax._external.host_rules import batch_shape, fit
from callbax._external.linear import linear_call
from callbax._external.rules import Struct, describe, is_inexact, on_host
from callbax._host_call import Hashable


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

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        linear = Linear(call, self, self._linear_leaves(call))
        operands = [leaves[i] for i in linear.positions]
        return linear_call(linear, linear.others(leaves), operands, call.result_structs)

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
    """A call as a linear function of the arrays at `positions`; the others are its residuals."""

    call: Call
    rule: TransposeRule
    positions: tuple[int, ...]

    def others(self, leaves: Sequence[Any]) -> list[Any]:
        return [leaf for i, leaf in enumerate(leaves) if i not in self.positions]

    def merge(self, residuals: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        """All arrays of the arguments, in order."""
        remaining, given = iter(residuals), iter(operands)
        return [
            next(given) if i in self.positions else next(remaining)
            for i in range(len(self.call.structs))
        ]

    def forward(self, residuals: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        return on_host(self.call, self.merge(residuals, operands))

    def transpose(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        structs = [self.call.structs[i] for i in self.positions]
        if isinstance(self.rule.transpose, Same):
            return HostTranspose(self).as_jax(residuals, cotangents, structs)
        return self.call.on_host_by(HostTranspose(self), structs, [*residuals, *cotangents])

    def refusal(self, residuals: Sequence[int]) -> str:
        names = self.others(self.call.names())
        return (
            f"{self.call.where} is differentiated with respect to "
            f"{', '.join(names[i] for i in residuals)}, but def_transpose says only that it is linear "
            f"in {', '.join(self.call.names()[i] for i in self.positions)}. Pass what needs no "
            "derivative through jax.lax.stop_gradient, or define the derivative by defjvp."
        )


@dataclasses.dataclass(frozen=True)
class HostTranspose:
    """What the host calls: the arrays that the call is not linear in, then the cotangents."""

    linear: Linear

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        call, positions = self.linear.call, self.linear.positions
        structs = [call.structs[i] for i in positions]
        others = len(call.structs) - len(positions)
        values = self._call(arrays[:others], arrays[others:])
        batch = batch_shape(arrays, [*self.linear.others(call.structs), *call.result_structs])
        return [
            fit(value, struct, batch, self.callbax_description)
            for value, struct in zip(values, structs, strict=True)
        ]

    def as_jax(
        self, residuals: Sequence[Any], cotangents: Sequence[Any], structs: Sequence[Struct]
    ) -> list[Any]:
        """The same where the transpose is an external function."""
        values = self._call(residuals, cotangents)
        for value, struct in zip(values, structs, strict=True):
            if jnp.shape(value) != struct.shape or value.dtype != struct.dtype:
                raise TypeError(
                    f"{self.callbax_description} returned {jax.typeof(value).str_short()} for an "
                    f"argument of {struct.dtype}{list(struct.shape)}; its result must have the shapes "
                    "and dtypes of the arguments that the function is linear in"
                )
        return values

    def _call(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        """The cotangents of the linear arguments; flat."""
        call, positions = self.linear.call, self.linear.positions
        slots, _ = call.structure.unflatten_without_static(range(len(call.structs)))
        is_linear = [any(leaf in positions for leaf in jax.tree.leaves(slot)) for slot in slots]
        merged = self.linear.merge(residuals, [None] * len(positions))
        args, kwargs = call.structure.unflatten(merged)
        others = [arg for arg, linear in zip(args, is_linear, strict=True) if not linear]
        of_result = call.result_tree.unflatten(cotangents)
        value = self.linear.rule.transpose.value(*others, of_result, **kwargs)
        trees = [slot for slot, linear in zip(slots, is_linear, strict=True) if linear]
        return self._flatten(value if len(trees) > 1 else (value,), trees)

    def _flatten(self, value: Any, slots: Sequence[Any]) -> list[Any]:
        positions = self.linear.positions
        found: dict[int, Any] = {}
        try:
            for slot, part in zip(slots, value, strict=True):
                leaves, tree = jax.tree.flatten(slot)
                found.update(zip(leaves, tree.flatten_up_to(part), strict=True))
            return [found[position] for position in positions]
        except (ValueError, TypeError):
            raise TypeError(
                f"{self.callbax_description} must return what the function is linear in: "
                f"{len(slots)} argument(s) of the structure(s) "
                f"{', '.join(str(jax.tree.structure(slot)) for slot in slots)}"
                f"{', as a tuple' if len(slots) > 1 else ''}; it returned "
                f"{jax.tree.structure(value if len(slots) > 1 else value[0])}"
            ) from None

    @property
    def callbax_description(self) -> str:
        return describe(self.linear.call, "transpose", self.linear.rule.transpose.value)
