"""One call of an external function: from its arrays to the host, without derivatives."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax.tree_util import PyTreeDef

from callbax._callbacks.io import io_callback_over_batch
from callbax._callbacks.pure import pure_callback
from callbax._callbacks.results import flatten_result_spec
from callbax._external import dispatch, masks, vmap_rules
from callbax._external.host import KeywordsInOne
from callbax._external.signature import is_constant
from callbax._external.structure import Structure
from callbax._host_function import Hashable, Wording

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
      masked: the first array is a mask, which the host function does not get: it is called in live
        lanes only, and results in the others are zero. `structs` does not count it.
    """

    external: External
    structure: Structure
    structs: tuple[jax.ShapeDtypeStruct, ...]
    result_tree: PyTreeDef
    result_structs: tuple[jax.ShapeDtypeStruct, ...]
    masked: bool = False

    @classmethod
    def of(
        cls,
        external: External,
        structure: Structure,
        structs: Sequence[jax.ShapeDtypeStruct],
        result: Any,
        masked: bool = False,
    ) -> Call:
        """The call whose result is a pytree of structs (or of anything with shape and dtype)."""
        avals, tree = flatten_result_spec(result, external.function, "result=")
        of_result = tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals)
        return cls(external, structure, tuple(structs), tree, of_result, masked)

    @property
    def where(self) -> str:
        """What messages call the function."""
        return self.external.where

    def names(self) -> list[str]:
        """What messages call each array of the arguments."""
        return self.structure.names(self.external.parameters)

    @property
    def function(self) -> Callable[..., Any]:
        """What the runtime calls with the arguments."""
        return self.external.called

    def entered(self, leaves: Sequence[Any]) -> contextlib.AbstractContextManager[Sequence[Any]]:
        """The leaves without the mask, which holds for the external functions called inside."""
        return masks.entered(leaves) if self.masked else contextlib.nullcontext(leaves)

    def on_host(self, leaves: Sequence[Any], advice: str = "") -> list[Any]:
        """Calls the host function with `leaves`; returns the flat results.

        Args:
          advice: what to say if that call is differentiated.
        """
        function = functools.partial(self._on_host, self._wording(advice))
        if self.external.vmap_rule is None or self.masked:
            return function(*leaves)
        return vmap_rules.apply(self, self.external.vmap_rule, function, leaves)

    def _on_host(self, wording: Wording, *leaves: Any) -> list[Any]:
        if dispatch.is_needed(self):
            return dispatch.on_host(self, self.external.host_function(wording), leaves)
        options = self.external.options
        function = self.external.host_function(wording, options.name)
        args, kwargs = self.structure.unflatten(leaves)
        if _OWN_KEYWORDS & kwargs.keys():
            in_one = KeywordsInOne(Hashable(self.function))
            function = dataclasses.replace(function, function=in_one, name=None)
            args, kwargs = (args, kwargs), {}
        spec = jax.tree.unflatten(self.result_tree, self.result_structs)
        if options.effects == "none":
            method = options.vmap_method
            value = pure_callback(function, spec, *args, vmap_method=method, **kwargs)
        else:
            ordered = options.effects == "ordered"
            value = io_callback_over_batch(
                function, spec, args, kwargs, ordered=ordered, vmap_method=options.vmap_method
            )
        return jax.tree.leaves(value)

    def _wording(self, advice: str) -> Wording:
        options = self.external.options
        no_derivative = _NO_DERIVATIVE if options.effects == "none" else _NO_DERIVATIVE_OF_EFFECTS
        return Wording(
            called="callbax.external",
            declared="result= or signature=",
            unordered="effects='io'",
            batches=_BATCHES.format(options.vmap_method) if options.whole_batch else "",
            no_derivative=advice or no_derivative.format(self.where, options.effects),
        )

    def of_rule(
        self,
        function: Callable[..., Any],
        structs: Sequence[jax.ShapeDtypeStruct],
        result_structs: Sequence[jax.ShapeDtypeStruct],
    ) -> Call:
        """The call of another host function, of flat arrays, batched and masked as this one is.

        Raises:
          ValueError: shapes are symbolic, of which host code knows nothing.
        """
        for struct in (*structs, *result_structs):
            if not is_constant(struct.shape):
                raise ValueError(
                    f"derivatives of {self.where} by host code need shapes that are numbers, but here is "
                    f"the symbolic shape {struct.shape}; define them by JAX code (defjvp, defvjp)"
                )
        external = copy.copy(self.external)
        external.function, external.rules, external.vmap_rule = function, (), None
        external.options = dataclasses.replace(
            self.external.options, zero_copy=False, out=False, arrays="numpy", name=None
        )
        structure = Structure(jax.tree.structure((tuple(structs), {})))
        result = list(result_structs)
        return Call.of(external, structure, structs, result, self.masked)


# Keyword arguments of these names would be taken for options of the public functions.
_OWN_KEYWORDS = frozenset(
    {"callback", "result_shape_dtypes", "sharding", "vmap_method", "vectorized", "ordered"}
)

_NO_DERIVATIVE = (
    "The external function {} has no derivative. Define one: by JAX code with defjvp, defjvps or "
    "defvjp; by host code with def_host_jvp or def_host_vjp; with def_transpose if it is linear; or "
    "make it with derivative='central' (numerical). Where none is wanted, pass its arguments through "
    "jax.lax.stop_gradient."
)
_NO_DERIVATIVE_OF_EFFECTS = (
    "The external function {} has effects={!r}, so it has no derivative: the transformed program would "
    "run it another number of times. Pass its arguments through jax.lax.stop_gradient, or, if it only "
    "looks at values, use callbax.debug.callback, which derivatives pass by."
)
_BATCHES = (
    " With vmap_method={!r} it gets all lanes of a batch in one call, in front of each array, and "
    "returns them so; 'sequential' calls it for each lane."
)
