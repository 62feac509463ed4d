"""Definition, what is known of an external function, and Call, what is known of one call of it.

Both are frozen and compare by content, as they are a part of what JAX compares to reuse a trace.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from jax.tree_util import PyTreeDef

from callbax._callbacks.results import flatten_result_spec
from callbax._external.options import Options
from callbax._external.signature import is_constant
from callbax._host.adapters import ResultOnly, WithArrays
from callbax._host.function import Hashable, HostFunction
from callbax._host.structure import Structure

VmapRule = Callable[..., tuple[Any, Any]]


class Rule(Protocol):
    """A derivative of external functions. Comparable, as it is a part of the function's key.

    `is_jax_code` says that JAX code computes the derivative, which may give 0 * inf in dead lanes;
    `returns_object`, that the host function returns an object for it besides the result; `host_code` is
    the user's, each with what kind of code it is.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_jax_code(self) -> bool: ...

    @property
    def returns_object(self) -> bool: ...

    @property
    def host_code(self) -> Sequence[tuple[str, Any]]: ...

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        """The call, differentiable; flat results."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Definition:
    """What is known of an external function.

    Attributes:
      function: the host function.
      options: what `callbax.external` was told.
      description: what messages call the function.
      parameters: the names of its positional parameters.
      rules: its derivative, if it has one.
      vmap_rule: what `vmap` does instead of what the options say.
    """

    function: Callable[..., Any]
    options: Options
    description: str
    parameters: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    vmap_rule: VmapRule | None = None

    @functools.cached_property
    def host_function(self) -> HostFunction:
        """What the runtime calls with the arguments, with the options of how, on every route."""
        options = self.options
        chosen = options.result is not None and options.result.chosen_dtype
        return HostFunction(
            self.result_function,
            views=options.zero_copy or options.device,
            out=options.out,
            casting="same_kind" if chosen else "safe",
            name=None if self.returns_object else options.name,
            external=options.vmap_method if options.whole_batch else "sequential",
        )

    @property
    def returns_object(self) -> bool:
        """Whether the function returns an object for its derivative besides the result."""
        return any(rule.returns_object for rule in self.rules)

    @property
    def result_function(self) -> Callable[..., Any]:
        """The host function, or what calls it for its result alone, with the arrays that it wants."""
        options, function = self.options, self.function
        if self.returns_object:
            function = ResultOnly(Hashable(function), options.name)
        if options.arrays == "numpy":
            return function
        return WithArrays(Hashable(function), options.arrays, options.device, options.out)

    @functools.cached_property
    def key(self) -> tuple[Hashable, Hashable, tuple[Rule, ...], Hashable]:
        """What tells it from others: function, options, rules, vmap_rule."""
        return (
            Hashable(self.function),
            Hashable(self.options),
            self.rules,
            Hashable(self.vmap_rule),
        )

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Definition) and self.key == other.key)

    def __hash__(self) -> int:
        return hash(self.key[0])


@dataclasses.dataclass(frozen=True)
class Call:
    """An external function with the structure of its arguments and of its result.

    Attributes:
      definition: of the function.
      structure: of the arguments.
      structs: shape and dtype of each array of the arguments.
      result_tree, result_structs: the result; flat results follow `result_structs`.
      masked: the first array is a mask, which the host function does not get: it is called in live
        lanes only, and results in the others are zero. `structs` does not count it.
    """

    definition: Definition
    structure: Structure
    structs: tuple[jax.ShapeDtypeStruct, ...]
    result_tree: PyTreeDef
    result_structs: tuple[jax.ShapeDtypeStruct, ...]
    masked: bool = False

    @classmethod
    def of(
        cls,
        definition: Definition,
        structure: Structure,
        structs: Sequence[jax.ShapeDtypeStruct],
        result: Any,
        masked: bool = False,
    ) -> Call:
        """The call whose result is a pytree of structs (or of anything with shape and dtype)."""
        avals, tree = flatten_result_spec(result, definition.function, "result=")
        of_result = tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals)
        return cls(definition, structure, tuple(structs), tree, of_result, masked)

    @property
    def where(self) -> str:
        """What messages call the function."""
        return self.definition.description

    @property
    def options(self) -> Options:
        return self.definition.options

    @property
    def independent_dimensions(self) -> int:
        """How many leading dimensions of a call per shard are independent of one another.

        Arrays of elementwise functions have one shape then.
        """
        return len(self.structs[0].shape) if self.options.elementwise and self.structs else 0

    def names(self) -> list[str]:
        """What messages call each array of the arguments."""
        return self.structure.names(self.definition.parameters)

    def of_rule(
        self,
        function: Callable[..., Any],
        structs: Sequence[jax.ShapeDtypeStruct],
        result_structs: Sequence[jax.ShapeDtypeStruct],
        *,
        of_tensors: bool = False,
    ) -> Call:
        """The call of another host function, of flat arrays, batched and masked as this one is.

        It gets NumPy arrays on the host, or tensors where this one does.

        Raises:
          ValueError: shapes are symbolic, of which host code knows nothing.
        """
        for struct in (*structs, *result_structs):
            if not is_constant(struct.shape):
                raise ValueError(
                    f"derivatives of {self.where} by host code need shapes that are numbers, but here is "
                    f"the symbolic shape {struct.shape}; define them by JAX code (defjvp, defvjp)"
                )
        options = dataclasses.replace(
            self.options,
            zero_copy=False,
            out=False,
            arrays=self.options.arrays if of_tensors else "numpy",
            device=of_tensors and self.options.device,
            name=None,
        )
        definition = dataclasses.replace(
            self.definition, function=function, options=options, rules=(), vmap_rule=None
        )
        structure = Structure(jax.tree.structure((tuple(structs), {})))
        return Call.of(definition, structure, structs, list(result_structs), self.masked)
