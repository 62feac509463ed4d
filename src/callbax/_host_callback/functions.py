"""What the runtime calls for a tap, and for a call."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
from jax.tree_util import PyTreeDef

from callbax._callbacks.flavours import TAP
from callbax._callbacks.informed import Informed
from callbax._runtime import failures
from callbax._runtime.errors import CallbackResultError, describe_arrays

Transforms = tuple[tuple[str, dict[str, Any]], ...]


@dataclasses.dataclass(frozen=True)
class Tap(Informed):
    """A tap function, with the transformations that were applied to the tapped value.

    Its exception does not fail the program: the next barrier raises it.

    Attributes:
      applied: in order; each a name with the values of its parameters.
    """

    applied: tuple[tuple[Any, ...], ...] = ()

    def batched(self, dims: tuple[int | None, ...]) -> Tap:
        return dataclasses.replace(self, applied=(*self.applied, ("batch", dims)))

    def transposed(self) -> Tap:
        """The tap of the cotangents."""
        return dataclasses.replace(self, applied=(*self.applied, ("transpose",)))

    @property
    def transforms(self) -> Transforms:
        """As the tap function gets them: it may keep and change them."""
        if not self.applied:
            return ()
        return tuple(
            (name, {"batch_dims": parameters[0]} if name == "batch" else {})
            for name, *parameters in self.applied
        )

    def __call__(self, *values: Any) -> None:
        *number, arg = values
        try:
            if self.with_device:
                self.func.value(arg, self.transforms, device=self.device(*number))
            else:
                self.func.value(arg, self.transforms)
        except Exception as error:  # noqa: BLE001 - kept, logged, and raised by the next barrier
            arguments = describe_arrays(jax.tree.leaves(arg))
            failures.postpone(self, TAP.public_name, error, arguments)


@dataclasses.dataclass(frozen=True)
class Call(Informed):
    """A function whose result the program gets.

    Attributes:
      result: the structure that the result must have.
    """

    declared: ClassVar[str] = "result_shape"
    result: PyTreeDef

    def __call__(self, *values: Any) -> Any:
        *number, arg = values
        keywords = {"device": self.device(*number)} if self.with_device else {}
        value = self.func.value(arg, **keywords)
        leaves, structure = jax.tree.flatten(value)
        if structure != self.result and (leaves or self.result.num_leaves):
            raise CallbackResultError(
                f"Mismatched structure of the result. Expected: {self.result}, Actual: {structure}. "
                f"Returned by the callback {self}; return the structure that {self.declared} says."
            )
        return tuple(leaves)
