"""gufunc signatures, "(n,k),(k)->(n)": core shapes, batch shapes, and calls over a batch.

The syntax is that of NumPy's generalized universal functions (numpy.org/doc, "Generalized universal
function API"), without its optional and broadcastable dimensions; a number is a fixed size.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Dimension = str | int
Shape = tuple[int, ...]

_CORE = r"\(\s*(?:\w+\s*(?:,\s*\w+\s*)*)?\)"
_LIST = rf"{_CORE}\s*(?:,\s*{_CORE}\s*)*"
_SIGNATURE = re.compile(rf"\s*(?P<inputs>{_LIST})?->\s*(?P<outputs>{_LIST})\s*")


@dataclasses.dataclass(frozen=True)
class Signature:
    """The core dimensions of each argument and of each result: names, or fixed sizes."""

    inputs: tuple[tuple[Dimension, ...], ...]
    outputs: tuple[tuple[Dimension, ...], ...]
    text: str = dataclasses.field(compare=False)

    def __str__(self) -> str:
        return self.text

    def bind(self, shapes: Sequence[Shape], names: Sequence[str], where: str) -> dict[str, int]:
        """Sizes of the named dimensions, from the arguments' shapes.

        Args:
          shapes: the arguments' whole shapes; the core dimensions are the last ones.
          names: what messages call the arguments.
          where: the function, in messages.

        Raises:
          TypeError: another number of arguments.
          ValueError: an argument has too few dimensions, or a dimension two sizes.
        """
        if len(shapes) != len(self.inputs):
            raise TypeError(
                f"{where} has the signature {self}, so it takes {len(self.inputs)} array(s), but "
                f"got {len(shapes)}: {', '.join(names) or 'none'}"
            )
        sizes: dict[str, int] = {}
        owners: dict[str, str] = {}
        for core, shape, name in zip(self.inputs, shapes, names, strict=True):
            if len(shape) < len(core):
                raise ValueError(
                    f"{name} of {where} has shape {shape}, but the signature {self} gives it "
                    f"{len(core)} core dimensions, ({','.join(map(str, core))})"
                )
            for dimension, size in zip(core, shape[len(shape) - len(core) :], strict=True):
                if isinstance(dimension, int):
                    expected, reason = dimension, "in the signature"
                else:
                    expected = sizes.setdefault(dimension, size)
                    reason = f"in {owners.setdefault(dimension, name)}"
                if size != expected:
                    raise ValueError(
                        f"dimension {dimension} of {name} of {where} is {size}, but {expected} "
                        f"{reason}; the signature is {self}, and {name} has shape {shape}"
                    )
        return sizes

    def batch_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """What comes before the core dimensions of each argument."""
        return [
            shape[: len(shape) - len(core)] for core, shape in zip(self.inputs, shapes, strict=True)
        ]

    def result_shapes(self, sizes: dict[str, int]) -> list[Shape]:
        """The core shapes of the results."""
        return [tuple(d if isinstance(d, int) else sizes[d] for d in core) for core in self.outputs]

    @property
    def unknown_outputs(self) -> tuple[str, ...]:
        """Named dimensions of results that no argument has."""
        known = {d for core in self.inputs for d in core}
        return tuple(
            d for core in self.outputs for d in core if isinstance(d, str) and d not in known
        )


def parse(text: str) -> Signature:
    """The signature that `text` says.

    Raises:
      TypeError: it is not a string.
      ValueError: it is not a gufunc signature.

    >>> parse("(n,k),(k)->(n)").inputs
    (('n', 'k'), ('k',))
    >>> parse("(3),()->(),(3,3)").outputs
    ((), (3, 3))
    """
    if not isinstance(text, str):
        raise TypeError(
            f"signature must be a string such as '(n,k),(k)->(n)', but is of type "
            f"{type(text).__name__}"
        )
    match = _SIGNATURE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"signature {text!r} is not a gufunc signature. It lists the core dimensions of each "
            "argument and result, as in '(n,k),(k)->(n)', '(),()->()' or '(3)->(3,3)'."
        )
    for core in re.findall(_CORE, text):
        for word in re.findall(r"\w+", core):
            if word[0].isdigit() and not word.isdecimal():
                raise ValueError(
                    f"signature {text!r}: {word!r} is neither a name nor a size; a dimension is an "
                    "identifier such as n, or a number such as 3"
                )
    return Signature(_parse_list(match["inputs"]), _parse_list(match["outputs"]), text)


def _parse_list(text: str | None) -> tuple[tuple[Dimension, ...], ...]:
    return tuple(
        tuple(int(word) if word.isdecimal() else word for word in re.findall(r"\w+", core))
        for core in re.findall(_CORE, text or "")
    )


def broadcast(shapes: Sequence[Shape], names: Sequence[str], where: str) -> Shape:
    """The shape that all broadcast to, by NumPy's rule; sizes may be symbolic.

    Raises:
      ValueError: they do not; names the arguments and the dimension.
    """
    result: list[int] = []
    owners: list[str] = []
    for shape, name in zip(shapes, names, strict=True):
        missing = len(shape) - len(result)
        result, owners = [1] * missing + result, [name] * missing + owners
        for axis in range(1, len(shape) + 1):
            size = shape[-axis]
            if size == 1 or size == result[-axis]:
                continue
            if result[-axis] != 1:
                raise ValueError(
                    f"the arguments of {where} do not broadcast: counted from the last, dimension "
                    f"{axis} is {result[-axis]} in {owners[-axis]}, but {size} in {name}; the shapes "
                    f"are {', '.join(f'{n}: {s}' for n, s in zip(names, shapes, strict=True))}"
                )
            result[-axis], owners[-axis] = size, name
    return tuple(result)


def over_batch(
    function: Callable[[Sequence[Any]], list[Any]],
    leaves: Sequence[Any],
    batches: Sequence[Shape],
    batch: Shape,
) -> list[Any]:
    """`function` of the core arrays, over all batch dimensions, which broadcast.

    They are axes of `jax.vmap`, so that explicit batches and those of `vmap` go one way.

    Args:
      function: takes and returns flat lists.
      batches: what comes before the core dimensions of each leaf.
      batch: what they broadcast to.
    """
    if not batch:
        return function(leaves)
    aligned = []
    for leaf, own in zip(leaves, batches, strict=True):
        missing = len(batch) - len(own)
        repeated = [i for i, size in enumerate(own) if size == 1 and batch[i + missing] != 1]
        aligned.append(jnp.squeeze(leaf, repeated) if repeated else jnp.asarray(leaf))
    mapped = function
    for axis in reversed(range(len(batch))):
        axes = [0 if _has_axis(own, batch, axis) else None for own in batches]
        mapped = jax.vmap(mapped, in_axes=(axes,))
    return mapped(aligned)


def _has_axis(own: Shape, batch: Shape, axis: int) -> bool:
    index = axis - (len(batch) - len(own))
    return index >= 0 and own[index] == batch[axis]


def equalise_ranks(leaves: list[Any]) -> list[Any]:
    """Leading dimensions of size 1, so that a batch dimension put in front means the same for all."""
    rank = max((jnp.ndim(leaf) for leaf in leaves), default=0)
    return [
        leaf if jnp.ndim(leaf) == rank else jnp.expand_dims(leaf, range(rank - jnp.ndim(leaf)))
        for leaf in leaves
    ]


def is_constant(shape: Shape) -> bool:
    """Whether all sizes are numbers, and none symbolic, as in `jax.export`."""
    return all(isinstance(size, int) for size in shape)
