"""Derivative rules of an external function: how they are defined, and how they are applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from callbax._external.call import Call

if TYPE_CHECKING:
    from callbax._external.external import External


class Rule(Protocol):
    """A derivative of external functions. Comparable, as it is a part of the function's key."""

    name: str

    def apply(self, call: Call, leaves: Sequence[Any]) -> list[Any]:
        """The call, differentiable; flat results."""
        ...


class Definitions:
    """The methods of an External that define derivatives; all serve as decorators too."""

    rules: tuple[Rule, ...]
    where: str

    def __init__(self) -> None:
        self.rules = ()


def apply(call: Call, leaves: Sequence[Any]) -> list[Any]:
    """Calls with the function's derivative, if it has one; flat results."""
    rules = call.external.rules
    return rules[0].apply(call, leaves) if rules else call.on_host(leaves)


def describe(external: External) -> str:
    """The derivatives, for the repr."""
    return "".join(f", {rule.name}" for rule in external.rules)
