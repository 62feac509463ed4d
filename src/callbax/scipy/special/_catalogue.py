"""The catalogue: what is known of the derivative of each function in each of its arguments.

The modules of `_rules` fill it, one family of functions each:

    derivatives(
        "jv",
        source="DLMF 10.6.1",
        v=NoClosedForm("the order of a Bessel function"),
        z=lambda v, z: (special.jv(v - 1, z) - special.jv(v + 1, z)) / 2,
    )

names the arguments in SciPy's order. A rule takes all the arguments, as arrays of one shape, and
returns the partial derivative at each element; the derivatives of several results as a tuple.
Rules are made of JAX functions and of functions of this catalogue, which makes higher orders work,
and of Python numbers, which leave the dtype of the arguments as it is.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Rule = Callable[..., Any]


@dataclass(frozen=True)
class ClosedForm:
    """The derivative follows the rule, which is found in the source."""

    rule: Rule
    source: str


@dataclass(frozen=True)
class NoClosedForm:
    """The derivative exists, but only numerically."""

    reason: str


@dataclass(frozen=True)
class NotDifferentiable:
    """There is no derivative: the argument takes integers only, or the function is one of steps."""

    reason: str


Derivative = ClosedForm | NoClosedForm | NotDifferentiable

_entries: dict[str, Mapping[str, Derivative]] = {}


def derivatives(*names: str, source: str = "", **arguments: Rule | Derivative) -> None:
    """Enters the functions of these names, which have the same derivatives.

    Args:
      *names: SciPy's names of one function. A leading underscore marks a private ufunc of SciPy,
        which is there for the rules of others.
      source: where the rules are found, for those which do not say so themselves.
      **arguments: in SciPy's order, what is known of the derivative with respect to each.
    """
    entry = MappingProxyType({arg: _derivative(known, source) for arg, known in arguments.items()})
    for name in names:
        if name in _entries:
            raise ValueError(f"{name} is in the catalogue already")
        _entries[name] = entry


def _derivative(known: Rule | Derivative, source: str) -> Derivative:
    if isinstance(known, Derivative):
        return known
    if not source:
        raise ValueError("a rule needs a source")
    return ClosedForm(known, source)


@functools.cache
def entries() -> Mapping[str, Mapping[str, Derivative]]:
    """For each function of the catalogue and each of its arguments, in order, the derivative."""
    rules = importlib.import_module("callbax.scipy.special._rules")
    for family in pkgutil.iter_modules(rules.__path__, f"{rules.__name__}."):
        importlib.import_module(family.name)
    return MappingProxyType(_entries)


def entry(name: str, ufunc: Any) -> Mapping[str, Derivative]:
    """The catalogue's entry for SciPy's ufunc; one without derivatives if it has none."""
    known = entries().get(name)
    if known is None:
        unknown = NoClosedForm("callbax knows no derivative of this function")
        return {f"x{i}": unknown for i in range(ufunc.nin)}
    if len(known) != ufunc.nin:
        raise TypeError(
            f"scipy.special.{name} takes {ufunc.nin} arguments, but the catalogue knows "
            f"{len(known)}: {', '.join(known)}"
        )
    return known


def describe(derivative: Derivative) -> tuple[str, str]:
    """What is known of a derivative, in words: its kind, and the source or the reason."""
    match derivative:
        case ClosedForm(source=source):
            return "closed form", source
        case NoClosedForm(reason=reason):
            return "numerical only", reason
        case NotDifferentiable(reason=reason):
            return "not differentiable", reason
