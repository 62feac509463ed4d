"""Generalised ufuncs: which dimensions of the arguments are core dimensions, and their sizes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from callbax._external import signature as _signature


@dataclasses.dataclass(frozen=True)
class CoreDimensions:
    """The core dimensions of one call.

    Attributes:
      core: for each operand and result, the numbers of its core dimensions, in the order in which
        the signature first names them, as the C function counts them.
      sizes: of the core dimensions.
      signature: as text, without optional dimensions.
      absent: for each operand and result, its optional core dimensions that this call does not have,
        counted from the last; the C function sees dimensions of size 1 there.
    """

    core: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    signature: str
    absent: tuple[tuple[int, ...], ...]

    def expand(self, args: Sequence[Any]) -> list[Any]:
        """The arguments with all core dimensions that the signature names."""
        expanded = []
        for arg, core, absent in zip(args, self.core, self.absent, strict=False):
            for axis in sorted(absent):  # the first of the core dimensions is the last to be put in
                arg = jnp.expand_dims(arg, arg.ndim + 1 - axis)
            assert arg.ndim >= len(core)
            expanded.append(arg)
        return expanded

    def squeeze(self, results: Sequence[Any]) -> list[Any]:
        """The results without the dimensions that the call does not have."""
        absent = self.absent[len(self.absent) - len(results) :]
        return [
            jnp.squeeze(result, tuple(-axis for axis in axes)) if axes else result
            for result, axes in zip(results, absent, strict=True)
        ]


def core_dimensions(
    signature: str, shapes: Sequence[tuple[int, ...]], where: str
) -> CoreDimensions:
    """Reads the sizes of the core dimensions off the arguments' shapes.

    Args:
      signature: NumPy's text, such as '(m?,n),(n,p?)->(m?,p?)'.
      shapes: of the arguments.
      where: the function, for messages.

    Raises:
      ValueError: the shapes do not fit the signature.
      TypeError: the size of a result does not follow from the arguments.

    >>> core_dimensions("(m?,n),(n,p?)->(m?,p?)", [(5, 2, 3), (3,)], "matmul").core
    ((0, 1), (1, 2), (0, 2))
    """
    parsed = _parse(signature)
    optional = set(re.findall(r"(\w+)\?", signature))
    dropped = {
        dimension
        for core, shape in zip(parsed.inputs, shapes, strict=True)
        if len(shape) < len(core)
        for dimension in core
        if dimension in optional
    }
    everything = (*parsed.inputs, *parsed.outputs)
    absent = tuple(
        tuple(len(core) - k for k, dimension in enumerate(core) if dimension in dropped)
        for core in everything
    )
    whole = [
        _with_ones(shape, len(core), axes)
        for shape, core, axes in zip(shapes, parsed.inputs, absent, strict=False)
    ]
    names = [f"argument {i}" for i in range(len(shapes))]
    sizes = parsed.bind(whole, names, where)
    if parsed.unknown_outputs:
        raise TypeError(
            f"{where} has the signature {signature}, but the size of "
            f"{', '.join(parsed.unknown_outputs)} does not follow from the arguments. Such a ufunc is "
            "called with callbax.external."
        )
    return CoreDimensions(
        core=core_numbers(signature),
        sizes=tuple(d if isinstance(d, int) else sizes[d] for d in _numbers(everything)),
        signature=str(parsed),
        absent=absent,
    )


def core_numbers(signature: str) -> tuple[tuple[int, ...], ...]:
    """The numbers of the core dimensions of each operand and result."""
    parsed = _parse(signature)
    everything = (*parsed.inputs, *parsed.outputs)
    numbers = _numbers(everything)
    return tuple(tuple(numbers[dimension] for dimension in core) for core in everything)


def _numbers(everything: Sequence[Sequence[Any]]) -> dict[Any, int]:
    return {d: k for k, d in enumerate(dict.fromkeys(d for core in everything for d in core))}


def _parse(signature: str) -> _signature.Signature:
    """All dimensions of a signature, also those that a call may leave out."""
    return _signature.parse(signature.replace("?", "").replace("|1", ""))


def _with_ones(shape: tuple[int, ...], rank: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    dims = list(shape)
    for axis in sorted(axes):
        dims.insert(len(dims) + 1 - axis, 1)
    return tuple(dims)
