"""What the host calls for the derivatives of host rules, with flat arrays.

Where the host function returns an object for its vjp besides the result, these are `Keeping`, which keeps
the object and returns its key, and `VjpOfObject`, which gives the vjp what the key means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from callbax._external.call import Definition
from callbax._external.host_code import HostCode, RuleOnHost
from callbax._external.rules import (
    Struct,
    argument_leaves,
    inexact_only,
    is_inexact,
    result_leaves,
)
from callbax._host.adapters import ResultOnly, WithArrays
from callbax._host.call import HostCall
from callbax._host.function import Hashable, HostFunction
from callbax._runtime import residuals
from callbax._runtime.residuals import KEY


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
        return self._structs

    @property
    def _structs(self) -> list[Struct]:
        results = self.layout.result_structs
        return [*self.layout.structs, *results, *inexact_only(results)]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        return self.pull_back(arrays)

    def pull_back(self, arrays: Sequence[np.ndarray], *objects: Any) -> list[np.ndarray]:
        """The cotangents at `positions`; the rule gets the objects after the result's cotangents."""
        call, rule = self.layout, self.description
        first, second = len(call.structs), len(call.structs) + len(call.result_structs)
        primals, results, given = arrays[:first], arrays[first:second], iter(arrays[second:])
        cotangents = [next(given) if is_inexact(s) else None for s in call.result_structs]
        args, kwargs = call.structure.unflatten(primals)
        of_result = [call.result_tree.unflatten(leaves) for leaves in (results, cotangents)]
        returned = self.function.value(args, *of_result, *objects, **kwargs)
        values = argument_leaves(call, returned, rule)
        batch = batch_shape(arrays, self._structs)
        if call.elementwise:
            values = [
                _sum_broadcast(value, struct, len(batch))
                for value, struct in zip(values, call.structs, strict=True)
            ]
        structs = self.parts(call.structs, arrays)
        return [fit(values[i], structs[i], batch, rule) for i in self.positions]


@dataclasses.dataclass(frozen=True)
class WithObject:
    """A host vjp that gets an object, and the host function that returns it besides its result.

    Attributes:
      value: the rule.
      forward: the host function.
      arrays, out: how it is called, as options of the external function.
    """

    rule: HostCode
    forward: HostCode
    arrays: str
    out: bool

    @classmethod
    def of(cls, definition: Definition, rule: Callable[..., Any]) -> WithObject:
        """The rule of an external function.

        Raises:
          ValueError: its arrays may be cut anywhere, but not its object.
        """
        options = definition.options
        if options.per_shard and options.elementwise:
            raise ValueError(
                f"def_host_vjp of {definition.description}: residuals=True is not for elementwise "
                'functions (result="broadcast") with per_shard=True, whose arrays the compiler cuts '
                "anywhere; give it a signature=, or omit one of the two"
            )
        forward = HostCode(definition.function)
        return cls(HostCode(rule), forward, options.arrays, options.out)

    @property
    def value(self) -> Any:
        return self.rule.value


class Forward(RuleOnHost):
    """It gets the arrays of the arguments, and returns those of the result."""

    kind = "result without object"

    @property
    def description(self) -> str:
        return self.layout.where

    @property
    def host_function(self) -> Any:
        return self.function.forward.value

    @property
    def structs(self) -> Sequence[Struct]:
        return self.layout.structs

    def __call__(self, *arrays: np.ndarray) -> list[Any]:
        return self.both(arrays)[0]

    def both(self, arrays: Sequence[np.ndarray]) -> tuple[list[Any], Any]:
        """The flat result, and the object."""
        layout, batch = self.layout, batch_shape(arrays, self.structs)
        objects: list[Any] = []
        function: Any = ResultOnly(self.function.forward, objects=objects)
        library, out = self.function.arrays, self.function.out
        if library != "numpy":
            function = WithArrays(Hashable(function), library, out=out)
        host_function = HostFunction(function, out=out, external="sequential")
        call = HostCall.of(host_function, layout.structure, layout.result_tree)
        outs = [np.empty((*batch, *s.shape), s.dtype) for s in layout.result_structs if out]
        value = call.call([*arrays, *outs])
        return outs or jax.tree.leaves(value), objects[0]


class Keeping(Forward):
    """It gets the arrays of the arguments, and returns those of the result and the object's key."""

    kind = "result with object"

    @property
    def keeps_objects(self) -> bool:
        return True

    def __call__(self, *arrays: np.ndarray) -> list[Any]:
        batch, shapes = batch_shape(arrays, self.structs), tuple(a.shape for a in arrays)
        result, value = self.both(arrays)
        return [*result, residuals.keep(self.function, value, shapes, batch)]

    def without_last_result(self) -> Forward:
        return Forward(self.layout, self.function, self.positions)


class VjpOfObject(HostVjp):
    """It gets what a HostVjp gets, and then the key of the object."""

    kind = "host vjp of object"

    @property
    def keeps_objects(self) -> bool:
        return True

    @property
    def structs(self) -> list[Struct]:
        return [*self._structs, KEY]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        *arrays_of_rule, key = arrays
        primals = arrays[: len(self.layout.structs)]
        forward = Forward(self.layout, self.function, ())

        def compute() -> Any:
            return forward.both([array.copy() for array in primals])[1]

        shapes = tuple(array.shape for array in primals)
        value = residuals.recall(self.function, key, shapes, compute)
        return self.pull_back(arrays_of_rule, value)


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
