"""Wrapper: a callable of callbax's own, around what a user gave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from callbax._runtime.exceptions import is_a


class Wrapper:
    """Says how a callable of callbax's own is called in messages and programs.

    Whether something is one is asked of its type: a user's object may answer to any name.

    Attributes:
      notes_its_calls: its exceptions say themselves from which call they come.
      is_quiet: its exceptions are what it is for, and not logged.
      takes_text: programs may call it with text, too, and not only with arrays.
      ignores_result: it calls its host_function with what it gets, and returns nothing. So does the
        runtime, in its place.
      declared: the argument that says, in messages, which results it has.
    """

    __slots__ = ()
    notes_its_calls: ClassVar[bool] = False
    is_quiet: ClassVar[bool] = False
    takes_text: ClassVar[bool] = False
    ignores_result: ClassVar[bool] = False
    declared: ClassVar[str] = "result_shape_dtypes"

    def __dir__(self) -> list[str]:
        """What users look for: not what the runtime asks it."""
        asked = {name for name in vars(Wrapper) if not name.startswith("_")}
        return [name for name in super().__dir__() if name not in asked]

    @property
    def description(self) -> str:
        """What messages call it."""
        raise NotImplementedError

    @property
    def host_function(self) -> Any:
        """The user's function inside, which programs find by the path of this object; else itself."""
        return self

    def calls_same_as(self, other: Any) -> bool:
        """Whether another one of this type, and of the same name, calls the very same."""
        inside = self.host_function
        return bool(self == other if inside is self else inside is other.host_function)

    @property
    def held(self) -> Iterable[Any] | None:
        """Where jax Arrays of the user's may be; by default, anywhere in it."""
        return None

    @property
    def program_name(self) -> dict[str, Any] | None:
        """Its stable name in programs, if it has one of its own kind."""
        return None

    @property
    def code(self) -> tuple[int, int]:
        """The addresses of compiled code and of its data, which the runtime calls instead; or zeros."""
        return 0, 0

    @property
    def keeps_objects(self) -> bool:
        """Whether it keeps objects for other calls of the same run (_runtime/residuals.py)."""
        return False

    @property
    def device_library(self) -> str | None:
        """Whose arrays the user's function gets without a copy on a device, if it does."""
        return None

    def without_last_result(self) -> Any:
        """What is called where nobody asks for the last result, if that is anything else."""
        return None


def keeps_objects(function: Any) -> bool:
    """Whether a host function does, if it is a Wrapper."""
    return is_a(function, Wrapper) and function.keeps_objects


def device_library(function: Any) -> str | None:
    """Whose arrays a host function gets on a device, if it is a Wrapper and does."""
    return function.device_library if is_a(function, Wrapper) else None


def without_last_result(function: Any) -> Any:
    """What is called in its place, if it is a Wrapper and that is anything else."""
    return function.without_last_result() if is_a(function, Wrapper) else None
