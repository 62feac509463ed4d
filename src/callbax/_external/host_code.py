"""Host code of derivatives: what the host calls for it, and how programs name it.

A rule is often a lambda, so programs name it by the function that it belongs to:

    {"rule": "host vjp", "of": {"function": "my.models:solve"}, "positions": [0], ...}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import jax
import numpy as np
from jax.tree_util import PyTreeDef

from callbax._external.call import Call, Definition
from callbax._host import identity, offers, program_names, trust
from callbax._host.function import Around, Hashable
from callbax._host.structure import Structure
from callbax._runtime.errors import describe_function
from callbax._runtime.wrapper import Wrapper

Struct: TypeAlias = jax.ShapeDtypeStruct


class HostCode(Hashable):
    """A host function as a part of a key, which can be sent to another process.

    It is found there by its path, past the External that may have its name.
    """

    __slots__ = ()

    def __reduce__(self) -> Any:
        path = trust.import_path(self.value)
        if path is None or path.startswith("__main__:"):
            return HostCode, (self.value,)
        return _imported, (path,)


def _imported(path: str) -> HostCode:
    return HostCode(trust.imported(path))


@dataclasses.dataclass(frozen=True)
class Layout:
    """What host code needs to know of a call. It can be sent to another process.

    Attributes:
      owner: how programs name the external function, as text, if they can.
    """

    where: str
    structure: Structure
    structs: tuple[Struct, ...]
    result_tree: PyTreeDef
    result_structs: tuple[Struct, ...]
    elementwise: bool
    per_shard: bool
    owner: str | None

    @classmethod
    def of(cls, call: Call) -> Layout:
        owner = identity.reference(call.definition.function, call.options.name)
        return cls(
            call.where,
            call.structure,
            call.structs,
            call.result_tree,
            call.result_structs,
            call.options.elementwise,
            call.options.per_shard,
            None if owner is None else program_names.write(owner),
        )

    @property
    def data(self) -> dict[str, Any]:
        """As JSON data, for names in programs.

        Raises:
          TypeError: it cannot be written, as static arguments cannot.
        """
        if self.structure.static:
            raise TypeError("static arguments have no text")
        return {
            "call": self.structure.data,
            "arguments": program_names.write_structs(self.structs),
            "tree": program_names.write_tree(self.result_tree),
            "results": program_names.write_structs(self.result_structs),
            "elementwise": self.elementwise,
            "per_shard": self.per_shard,
        }

    @classmethod
    def from_data(cls, name: dict[str, Any], function: Any) -> Layout:
        """The layout of that `data`, of a call of the user's function.

        Raises:
          LookupError: they have another form.
        """
        structure = Structure.from_data(name.get("call"))
        structs, results = (
            program_names.read_structs(name, key) for key in ("arguments", "results")
        )
        tree = program_names.read_tree(name.get("tree"))
        if (structure.arrays, tree.num_leaves) != (len(structs), len(results)):
            raise LookupError(f"{program_names.write(name)[:200]} is not the name of a rule")
        elementwise, per_shard = (
            program_names.flag(name, key) for key in ("elementwise", "per_shard")
        )
        where = describe_function(function)
        return cls(where, structure, structs, tree, results, elementwise, per_shard, None)


def describe(call: Call | Layout, kind: str, function: Callable[..., Any]) -> str:
    """What messages call a rule."""
    return f"the {kind} rule {describe_function(function)} of {call.where}"


@dataclasses.dataclass(frozen=True)
class RuleOnHost(Wrapper):
    """What the host calls for a rule of host code, with flat arrays.

    Attributes:
      layout: of the call.
      function: the user's rule.
      positions: of the arrays of the arguments that it is about.
    """

    layout: Layout
    function: Any
    positions: tuple[int, ...]
    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        _rules[cls.kind] = cls

    @property
    def description(self) -> str:
        return describe(self.layout, self.kind, self.function.value)

    def parts(self, wanted: Sequence[Struct], arrays: Sequence[np.ndarray]) -> Sequence[Struct]:
        """The structs `wanted` of what is to be returned, for these arrays.

        Those of the program, unless a device calls for its part of an elementwise function's arrays.
        """
        if not (self.layout.elementwise and self.layout.per_shard):
            return wanted
        first = arrays[0]
        part = first.shape[first.ndim - len(self.layout.structs[0].shape) :]
        return [Struct(part, struct.dtype) for struct in wanted]

    @property
    def host_function(self) -> Any:
        return self.function.value

    @property
    def program_name(self) -> dict[str, Any] | None:
        owner = self.layout.owner
        if owner is None:
            return None
        name = {"rule": self.kind, "of": json.loads(owner), "positions": self.positions}
        try:
            return {**name, **self.layout.data} if _find_rule(name)[1] == self.function else None
        except (TypeError, LookupError):
            return None

    @staticmethod
    def from_name(name: dict[str, Any]) -> RuleOnHost:
        """The rule of that `program_name`.

        Raises:
          LookupError: there is none, or programs may not name it.
        """
        owner, rule = _find_rule(name)
        layout = Layout.from_data(name, owner)
        positions = program_names.numbers(name, "positions", len(layout.structs))
        return _rules[name["rule"]](layout, rule, positions)


_rules: dict[str, type[RuleOnHost]] = {}


def offer_rules(definition: Definition) -> list[offers.Offer]:
    """Lets programs name the host code of an external function's rules while the offers live.

    The function has to live as long.
    """
    owner = id(definition.function), definition.options.name
    code = [named for rule in definition.rules for named in rule.host_code]
    return [offers.Offer((kind, *owner), function) for kind, function in code]


def _find_rule(name: dict[str, Any]) -> tuple[Any, Any]:
    """The user's function, and the rule of it that a name means."""
    kind, owner = program_names.string(name, "rule"), name.get("of")
    if kind not in _rules or not isinstance(owner, dict):
        raise LookupError(f"{program_names.write(name)[:200]} is not the name of a rule")
    function = identity.referred(owner)
    what = f"the {kind} rule of {describe_function(function)}"
    missing = "which this process does not have. Import the module that defines it."
    return function, offers.find((kind, id(function), owner.get("named")), what, missing)


identity.add_kind("rule", RuleOnHost.from_name)


@dataclasses.dataclass(frozen=True)
class ComplexOnly(Around):
    """A host function that must return complex arrays: a real one would mean the derivative zero."""

    expected: tuple[bool, ...]
    owner: str | None = dataclasses.field(default=None, compare=False)  # as in Layout

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        result = self.function.value(*args, **kwargs)
        if result is not None:  # else it has written into out=
            for leaf, is_expected in zip(jax.tree.leaves(result), self.expected, strict=False):
                if is_expected and "complex" not in str(getattr(leaf, "dtype", type(leaf))):
                    raise TypeError(
                        f"{self.description} has derivative='complex_step', but returned "
                        f"{getattr(leaf, 'dtype', leaf)} for complex arguments: something in it, such as "
                        "abs, real or a conversion to float, drops the imaginary part, which carries the "
                        "derivative. Use derivative='central'."
                    )
        return result

    @property
    def program_name(self) -> dict[str, Any] | None:
        if self.owner is None:
            return None
        return {"complex": json.loads(self.owner), "expected": self.expected}

    @staticmethod
    def from_name(name: dict[str, Any]) -> ComplexOnly:
        """The function of that `program_name`.

        Raises:
          LookupError: there is none, or programs may not name it.
        """
        owner, expected = name["complex"], name.get("expected")
        if not isinstance(owner, dict) or not isinstance(expected, list):
            raise LookupError(f"{program_names.write(name)[:200]} is not the name of a function")
        return ComplexOnly(HostCode(identity.referred(owner)), tuple(map(bool, expected)))


identity.add_kind("complex", ComplexOnly.from_name)
