"""Derivatives of compiled functions: one rule for each argument.

A rule is one of
- a function of the arguments, which returns the elementwise partial derivative;
- a function of (tangent, answer, *arguments), which returns the output's tangent;
- "central", the numerical central difference;
- None, or an object that says in its attribute `reason` why there is none.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from callbax._external.differences import Directions, Steps
from callbax._runtime.errors import MissingDerivativeError, describe_function

Central = Literal["central"]
CENTRAL: Central = "central"
_CENTRAL_AGAIN = "central difference of a central difference"


@dataclasses.dataclass(frozen=True)
class _NoRule:
    reason: str


# What becomes of a numerical rule in the function whose differences are taken: each order loses a third
# of the digits, so that the third has none left.
_ONE_ORDER_ON: dict[Any, Any] = {
    CENTRAL: _CENTRAL_AGAIN,
    _CENTRAL_AGAIN: _NoRule("central differences go to the second order"),
}


@dataclasses.dataclass(frozen=True)
class Derivatives:
    """The rules of a function. Equal rules make equal parameters of a primitive.

    Attributes:
      function: what is differentiated; it takes and gives JAX values.
      name: for messages.
      rules: one entry for each argument.
      signature: of a function with core dimensions; its rules see these alone.
    """

    function: Callable[..., Any]
    name: str
    rules: tuple[Any, ...]
    signature: str | None = None

    @property
    def nin(self) -> int:
        return len(self.rules)

    def jvp(
        self, primals: Sequence[Any], answers: Sequence[Any], tangents: Sequence[Any]
    ) -> list[Any]:
        """Tangents of the results, None where one is zero. A tangent that is None is zero too."""
        totals: list[Any] = [None] * len(answers)
        for position, tangent in enumerate(tangents):
            if tangent is None:
                continue
            parts = self._parts(position, tangent, primals, answers)
            for i, (part, answer) in enumerate(zip(parts, answers, strict=True)):
                if part is None or not jnp.issubdtype(answer.dtype, jnp.inexact):
                    continue
                part = self._as_tangent_of(answer, part, position)
                totals[i] = part if totals[i] is None else totals[i] + part
        return totals

    def _parts(
        self, position: int, tangent: Any, primals: Sequence[Any], answers: Sequence[Any]
    ) -> Sequence[Any]:
        rule = self.rules[position]
        if rule in _ONE_ORDER_ON:
            return self._differences(position, tangent, primals, answers)
        if callable(rule):
            if takes_tangent(rule, self.nin):
                return self._tangents(rule, position, tangent, primals, answers)
            partials = self._as_tuple(rule(*primals), len(answers), position)
            return [None if p is None else p * tangent for p in partials]
        raise MissingDerivativeError(self._no_rule(position, rule))

    def _differences(
        self, position: int, tangent: Any, primals: Sequence[Any], answers: Sequence[Any]
    ) -> Sequence[Any]:
        """The numerical derivative; None for results that have none."""
        rules = tuple(_ONE_ORDER_ON.get(rule, rule) for rule in self.rules)
        function = self.function.with_derivatives(rules)  # type: ignore[attr-defined]

        def at(value: Any) -> list[Any]:
            values = function(*primals[:position], value, *primals[position + 1 :])
            return list(self._as_tuple(values, len(answers), position))

        def evaluate(points: Sequence[Sequence[Any]]) -> list[list[Any]]:
            _, *moved = points  # the answers are known
            return [[answer[None] for answer in answers], *(jax.vmap(at)(x) for [x] in moved)]

        x = jnp.asarray(primals[position])
        inexact = [jnp.issubdtype(answer.dtype, jnp.inexact) for answer in answers]
        dtypes = [answer.dtype for answer, has in zip(answers, inexact, strict=True) if has]
        directions = Directions([jax.ShapeDtypeStruct(x.shape, x.dtype)], elementwise=True)
        _, partials = directions.partials(evaluate, [x], Steps(CENTRAL, None, 1, tuple(dtypes)))
        tangents = iter(directions.contract(partials, [tangent]))
        return [next(tangents) if has else None for has in inexact]

    def _tangents(
        self, rule: Any, position: int, tangent: Any, primals: Sequence[Any], answers: Sequence[Any]
    ) -> Sequence[Any]:
        count = len(answers)

        def apply(tangent: Any, *values: Any) -> Any:
            answer = values[0] if count == 1 else values[:count]
            return self._as_tuple(rule(tangent, answer, *values[count:]), count, position)

        if self.signature is not None:
            operands, results = self.signature.replace(" ", "").split("->")
            own = re.findall(r"\([^)]*\)", operands)[position]
            apply = jnp.vectorize(apply, signature=f"{own},{results},{operands}->{results}")
            return self._as_tuple(apply(tangent, *answers, *primals), count, position)
        return apply(tangent, *answers, *primals)

    def _as_tuple(self, value: Any, count: int, position: int) -> Sequence[Any]:
        if count == 1 and value is not None and not isinstance(value, (tuple, list)):
            return (value,)
        if not isinstance(value, (tuple, list)) or len(value) != count:
            raise TypeError(
                f"the derivative rule of {self.name} for argument {position} must return "
                f"{count} value(s), one for each result, but returned {value!r}"
            )
        return value

    def _as_tangent_of(self, answer: Any, part: Any, position: int) -> Any:
        part = jnp.asarray(part)
        if jnp.iscomplexobj(part) and not jnp.iscomplexobj(answer):
            raise TypeError(
                f"the derivative of {self.name} for argument {position} is complex, but the result "
                "is real: such a function is not holomorphic, and needs a rule that takes "
                "(tangent, answer, *arguments) and returns a real tangent"
            )
        return jnp.broadcast_to(part.astype(answer.dtype), answer.shape)

    def _no_rule(self, position: int, rule: Any) -> str:
        reason = getattr(rule, "reason", None)
        because = f": {reason}" if reason else " that is known to callbax"
        elementwise = self.signature is None
        rule = "lambda *args: ..." if elementwise else "lambda tangent, answer, *args: ..."
        rules = ", ".join(rule if i == position else "None" for i in range(self.nin))
        what = "the partial derivative" if elementwise else "the output's tangent"
        maker = getattr(self.function, "maker", "callbax.ufunc")
        central = f'let it be computed numerically, {maker}({self.name}, derivative="central"); or '
        return (
            f"{self.name} has no derivative with respect to argument {position}{because}. Give a "
            f"rule, {maker}({self.name}, derivatives=[{rules}]) with {what}, or "
            f"{central if elementwise else ''}stop "
            "the differentiation of that argument with jax.lax.stop_gradient."
        )


def check(
    name: str, rules: Sequence[Any], nin: int, *, elementwise: bool = True
) -> tuple[Any, ...]:
    """The rules as a tuple, if they can be the rules of a function of `nin` arguments.

    Raises:
      ValueError: there is not one for each argument.
      TypeError: an entry is not a rule.
    """
    rules = tuple(rules)
    if len(rules) != nin:
        raise ValueError(
            f"{name} takes {nin} argument(s), so it needs {nin} derivative rule(s), one for each, "
            f"but got {len(rules)}. An argument that cannot be differentiated has None."
        )
    for position, rule in enumerate(rules):
        if not elementwise and (rule == CENTRAL or callable(rule)):
            if rule == CENTRAL or not takes_tangent(rule, nin):
                raise TypeError(
                    f"{name} has core dimensions, so that it has no elementwise derivative. The rule "
                    f"for argument {position} must take (tangent, answer, *arguments) and return the "
                    "output's tangent"
                )
        elif callable(rule):
            takes_tangent(rule, nin)
        elif not (rule is None or rule == CENTRAL or hasattr(rule, "reason")):
            raise TypeError(
                f"the derivative of {name} for argument {position} must be a function, "
                f'"central" or None, but is {rule!r}'
            )
    return rules


def takes_tangent(rule: Callable[..., Any], nin: int) -> bool:
    """Whether a rule takes (tangent, answer, *arguments), and not the arguments alone."""
    try:
        parameters = inspect.signature(rule).parameters.values()
    except (TypeError, ValueError):
        return False  # a compiled function, which does not say; it takes the arguments
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if len(required) <= nin <= len(positional):
        return False
    if len(required) <= nin + 2 <= len(positional):
        return True
    raise ValueError(
        f"the derivative rule {describe_function(rule)} takes {len(required)} arguments; it must "
        f"take the function's {nin}, or {nin + 2}: (tangent, answer, *arguments)"
    )
