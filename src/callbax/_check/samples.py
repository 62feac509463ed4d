"""The example arguments of a self-test, and what is made of them: copies, lanes, directions."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from callbax._external.external import External
from callbax._external.transposes import TransposeRule
from callbax._host.structure import Structure, flatten

LANES = 3


@dataclasses.dataclass(frozen=True)
class Sample:
    """An external function with example arguments.

    Attributes:
      function: what is tested.
      structure: of the arguments.
      leaves: their arrays, in JAX's dtypes.
      names: what the findings call them.
      seen: what the host function has returned for them so far.
    """

    function: External
    structure: Structure
    leaves: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    seen: list[list[np.ndarray]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, function: External, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sample:
        signature = getattr(function, "__signature__", None)
        structure, leaves = flatten(function.function, signature, args, kwargs)
        # As JAX arrays they have the dtypes in which the host function will get them.
        arrays = tuple(np.array(jnp.asarray(leaf)) for leaf in leaves)
        gufunc = function.options.signature
        if gufunc is not None and len(gufunc.inputs) == len(arrays):
            arrays = tuple(map(_first_lane, arrays, gufunc.inputs))
        names = tuple(structure.names(function.definition.parameters))
        return cls(function, structure, arrays, names)

    def call(self, *leaves: Any) -> Any:
        """The function as JAX function of the arrays alone."""
        args, kwargs = self.structure.unflatten(leaves)
        return self.function(*args, **kwargs)

    def copies(self) -> list[np.ndarray]:
        return [leaf.copy() for leaf in self.leaves]

    @property
    def floating(self) -> list[int]:
        """Indices of the floating-point and complex arrays."""
        return [i for i, leaf in enumerate(self.leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    @property
    def differentiable(self) -> list[int]:
        """Indices of the arrays that have derivatives: arguments by name only have none."""
        slots = self.structure.unflatten_without_static(range(len(self.leaves)))[0]
        argnums = tuple(range(len(slots)))
        for rule in self.function.definition.rules:
            if isinstance(rule, TransposeRule) and rule.argnums is not None:
                argnums = rule.argnums
        positional = jax.tree.leaves([slots[i] for i in argnums])
        return [i for i in self.floating if i in positional]

    def lanes(self, index: int) -> np.ndarray:
        """A batch of array `index`: the example first, then values near it that all differ.

        Integers and booleans may be indices or flags, so each lane has the example itself.
        """
        leaf = self.leaves[index]
        if index not in self.floating:
            return np.stack([leaf] * LANES)
        factors = 1 - 0.03 * np.arange(LANES).reshape(LANES, *[1] * leaf.ndim)
        return (leaf * factors).astype(leaf.dtype)

    def direction(self, index: int) -> np.ndarray:
        """A tangent of array `index`, of the size of its elements; the same in each run."""
        leaf = self.leaves[index]
        sizes = np.abs(leaf)
        # A zero has no size of its own: that of the largest element, or little if all are zero.
        sizes = np.where(sizes == 0, np.max(sizes, initial=1e-3), sizes)
        generator = np.random.default_rng(index)
        return (sizes * random_like(generator, leaf)).astype(leaf.dtype)


def _first_lane(array: np.ndarray, core: tuple[Any, ...]) -> np.ndarray:
    """Without the batch dimensions that a signature allows; `vmap` brings others."""
    while array.ndim > len(core) and len(array):
        array = array[0, ...]
    return array


def random_like(generator: np.random.Generator, array: Any) -> np.ndarray:
    """Numbers of magnitude 0.5 to 1.5 and either sign, with the array's shape and dtype."""
    shape, dtype = np.shape(array), np.dtype(array.dtype)
    values = generator.uniform(0.5, 1.5, shape) * generator.choice([-1, 1], shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values * np.exp(1j * generator.uniform(0, 2 * np.pi, shape))
    return np.asarray(values).astype(dtype)


def difference(actual: Any, expected: Any, relative: float) -> str:
    """What is different between two pytrees of arrays, in words; "" if nothing is.

    Args:
      relative: allowed difference, relative to the largest element of each array; 0 for none.
    """
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    if len(actual) != len(expected):
        return f"{len(actual)} results instead of {len(expected)}"
    for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
        where = "" if len(expected) == 1 else f"result {i}: "
        one, other = np.asarray(one), np.asarray(other)
        if one.shape != other.shape:
            return f"{where}shape {one.shape} instead of {other.shape}"
        if not _close(one, other, relative):
            return f"{where}{_worst(one, other)}"
    return ""


def _close(one: np.ndarray, other: np.ndarray, relative: float) -> bool:
    if not jnp.issubdtype(other.dtype, jnp.inexact) or relative == 0:
        same = (one == other) | ((one != one) & (other != other))
        return bool(np.all(same))
    one, other = widened(one), widened(other)
    largest = float(np.max(np.abs(other[np.isfinite(other)]), initial=0.0))
    absolute = relative * max(largest, float(np.finfo(np.float32).tiny))
    return bool(np.allclose(one, other, rtol=relative, atol=absolute, equal_nan=True))


def _worst(one: np.ndarray, other: np.ndarray) -> str:
    """Where two arrays differ most."""
    wide_one, wide_other = widened(one), widened(other)
    distance = np.nan_to_num(np.abs(wide_one - wide_other), nan=0.0)
    distance = np.where(np.isnan(wide_one) != np.isnan(wide_other), np.inf, distance)
    index = np.unravel_index(int(np.argmax(distance)), distance.shape)
    place = f" at {tuple(map(int, index))}" if index else ""
    return f"{one[index]} instead of {other[index]}{place}"


def widened(array: Any) -> np.ndarray:
    """In double precision."""
    array = np.asarray(array)
    complex_valued = jnp.issubdtype(array.dtype, jnp.complexfloating)
    return array.astype(np.complex128 if complex_valued else np.float64)
