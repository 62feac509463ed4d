"""One call of an external function: from its arrays to the host, without derivatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax.tree_util import PyTreeDef

from callbax._callbacks.io import io_callback
from callbax._callbacks.pure import pure_callback
from callbax._callbacks.results import flatten_result_spec
from callbax._external.structure import Structure
from callbax._host_call import Hashable

if TYPE_CHECKING:
    from callbax._external.external import External


@dataclasses.dataclass(frozen=True)
class Call:
    """An external function with the structure of its arguments and of its result.

    Frozen and comparable: it is a part of what JAX compares to reuse a trace.

    Attributes:
      external: the function, with its options.
      structure: of the arguments.
      structs: shape and dtype of each array of the arguments.
      result_tree, result_structs: the result; flat results follow `result_structs`.
    """

    external: External
    structure: Structure
    structs: tuple[jax.ShapeDtypeStruct, ...]
    result_tree: PyTreeDef
    result_structs: tuple[jax.ShapeDtypeStruct, ...]

    @classmethod
    def of(
        cls,
        external: External,
        structure: Structure,
        structs: Sequence[jax.ShapeDtypeStruct],
        result: Any,
    ) -> Call:
        """The call whose result is a pytree of structs (or of anything with shape and dtype)."""
        avals, tree = flatten_result_spec(result, external.function)
        of_result = tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals)
        return cls(external, structure, tuple(structs), tree, of_result)

    @property
    def where(self) -> str:
        """What messages call the function."""
        return self.external.where

    def names(self) -> list[str]:
        """What messages call each array of the arguments."""
        return self.structure.names(self.external.parameters)

    def on_host(self, leaves: Sequence[Any]) -> list[Any]:
        """Calls the host function with `leaves`; returns the flat results."""
        options = self.external.options
        function = StaticCall(Hashable(self.external.function), self.structure)
        if options.effects == "none":
            return jax.tree.leaves(
                pure_callback(
                    function, list(self.result_structs), *leaves, vmap_method=options.vmap_method
                )
            )
        ordered = options.effects == "ordered"
        return jax.tree.leaves(
            io_callback(function, list(self.result_structs), *leaves, ordered=ordered)
        )


@dataclasses.dataclass(frozen=True)
class StaticCall:
    """A host function that takes the arrays of its arguments; it puts them into their tree."""

    function: Hashable
    structure: Structure

    def __call__(self, *leaves: Any) -> Any:
        args, kwargs = self.structure.unflatten(leaves)
        return self.function.value(*args, **kwargs)
