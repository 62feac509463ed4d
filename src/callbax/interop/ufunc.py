"""`ufunc`: a NumPy universal function as a JAX function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from callbax import _jax, _native
from callbax._errors import attribute, describe_function
from callbax._identity import import_path
from callbax.interop import derivatives as _derivatives
from callbax.interop import dtypes, loops
from callbax.interop.derivatives import CENTRAL, Derivatives


@dataclasses.dataclass(frozen=True)
class UfuncLoop:
    """One loop of a ufunc, as a source of loops."""

    ufunc: np.ufunc
    index: int

    @property
    def name(self) -> str:
        return self.ufunc.__name__

    @property
    def path(self) -> str | None:
        return import_path(self.ufunc)

    def address(self) -> tuple[int, int]:
        return _native.ufunc_loop(self.ufunc, self.index)


class Ufunc:
    """A NumPy universal function that JAX can call, differentiate and batch; see `callbax.ufunc`.

    Attributes:
      ufunc: the original.
      nin, nout: its numbers of arguments and results.
      derivatives: the rules, one for each argument.
    """

    def __init__(self, ufunc: np.ufunc, rules: tuple[Any, ...]):
        self.ufunc = ufunc
        self.nin: int = ufunc.nin
        self.nout: int = ufunc.nout
        self.derivatives = rules
        self.__name__ = self.__qualname__ = ufunc.__name__
        path = import_path(ufunc)
        original = path.replace(":", ".") if path else ufunc.__name__
        self.__doc__ = f"`{original}` as a JAX function. Its own documentation:\n\n{ufunc.__doc__}"

    def __call__(self, *args: Any) -> Any:
        if len(args) != self.nin:
            raise TypeError(
                f"{self!r} takes {self.nin} argument(s), one array each and by position, but got "
                f"{len(args)}"
            )
        resolution = self._resolve(args)
        values = [
            _jax.convert_element_type(arg, dtype)
            for arg, dtype in zip(args, resolution.operand_dtypes, strict=True)
        ]
        source = UfuncLoop(self.ufunc, resolution.index)
        results = loops.bind_loop(
            loops.Loop(source, resolution.operands, resolution.results),
            values,
            result_dtypes=resolution.result_dtypes,
            derivatives=self._differentiation,
        )
        results = [
            _jax.convert_element_type(result, dtype)
            for result, dtype in zip(results, resolution.final_dtypes, strict=True)
        ]
        return results[0] if self.nout == 1 else tuple(results)

    def _resolve(self, args: Sequence[Any]) -> dtypes.Resolution:
        return dtypes.resolve(self.ufunc, args)

    @functools.cached_property
    def _differentiation(self) -> Derivatives:
        # Of a copy: what has been traced must not change when rules are set anew.
        copy = self.with_derivatives(self.derivatives)
        return Derivatives(copy, self.__name__, self.derivatives)

    def with_derivatives(self, rules: tuple[Any, ...]) -> Self:
        """The same function with other rules."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.__dict__.pop("_differentiation", None)
        copy.derivatives = rules
        return copy

    def defjvps(self, *rules: Any) -> None:
        """Sets the derivative rules, one for each argument, as `jax.custom_jvp.defjvps` does.

        Args:
          *rules: as `derivatives` of `callbax.ufunc`; None for an argument that cannot be
            differentiated.
        """
        self.derivatives = _derivatives.check(self.__name__, rules, self.nin)
        self.__dict__.pop("_differentiation", None)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Ufunc)
            and self.ufunc is other.ufunc
            and self.derivatives == other.derivatives
        )

    def __hash__(self) -> int:
        return hash(self.ufunc)

    def __reduce__(self) -> Any:
        return Ufunc, (self.ufunc, self.derivatives)

    def __repr__(self) -> str:
        path = import_path(self.ufunc)
        return f"<callbax.ufunc of {path.replace(':', '.') if path else self.__name__}>"


def ufunc(
    u: Any, *, derivatives: Sequence[Any] | None = None, derivative: str | None = None
) -> Ufunc:
    """Makes a JAX function of a NumPy universal function with compiled loops.

    Its C loop is called directly, without Python and without the GIL. Arguments broadcast, the
    loop is chosen by their types as NumPy chooses it, and the values are bit for bit the original's.
    With x64 disabled, the float32 loop is taken, and a result that would have 64 bits has 32;
    float16 and bfloat16 are computed in float32; integers promote as they do in JAX.

    Args:
      u: a `numpy.ufunc` of NumPy, SciPy or any other library, the result of `numba.vectorize` or
        `numba.guvectorize` with given types, or a `Ufunc`, whose rules stay where none is given.
      derivatives: one entry for each argument. None: it cannot be differentiated. A function of the
        arguments: the partial derivative, elementwise (a tuple, if there are several results). A
        function of (tangent, answer, *arguments): the output's tangent, as in
        `jax.custom_jvp.defjvps`; generalised ufuncs need this form. "central": a central
        difference. A rule may call Ufuncs again, so that there are higher derivatives.
      derivative: "central" for every argument without a rule.

    Returns:
      A function of `nin` arrays that works in and outside of `jit`, under `vmap`, `scan`, `grad`
      and the other transformations.

    Raises:
      TypeError: `u` is no ufunc, or one without compiled loops; later, no loop for given types.
      NotImplementedError: later, the derivative for an argument without a rule.

    >>> import callbax as cb, jax, numpy as np
    >>> hypot = cb.ufunc(np.hypot, derivatives=[lambda x, y: x / hypot(x, y),
    ...                                         lambda x, y: y / hypot(x, y)])
    >>> jax.jit(jax.grad(hypot, argnums=(0, 1)))(3.0, 4.0)
    (Array(0.6, dtype=float32, weak_type=True), Array(0.8, dtype=float32, weak_type=True))
    """
    if derivative not in (None, CENTRAL):
        raise ValueError(f'derivative must be "central" or None, but is {derivative!r}')
    if not isinstance(u, Ufunc):
        inner = _inner(u)
        u = Ufunc(inner, (None,) * inner.nin)
    rules = u.derivatives
    if derivatives is not None:
        new = _derivatives.check(u.__name__, derivatives, u.nin)
        rules = tuple(old if rule is None else rule for rule, old in zip(new, rules, strict=True))
    if derivative is not None:
        rules = tuple(rule if callable(rule) else derivative for rule in rules)
    return u.with_derivatives(rules)


def _inner(u: Any) -> np.ufunc:
    """The ufunc itself; Numba wraps it.

    Raises:
      TypeError: it is no ufunc, or nothing in it is compiled.
    """
    inner = u if isinstance(u, np.ufunc) else attribute(u, "ufunc")
    if not isinstance(inner, np.ufunc):
        raise TypeError(
            f"cb.ufunc takes a numpy.ufunc with compiled loops, but got {describe_function(u)} of "
            f"type {type(u).__name__}. A Python function is called with cb.external."
        )
    if not inner.types:
        raise TypeError(
            f"the ufunc {inner.__name__!r} has no compiled loops yet; give numba.vectorize the types"
        )
    if all("O" in types for types in inner.types):
        raise TypeError(
            f"the ufunc {inner.__name__!r} has loops for Python objects only (as those of "
            "numpy.frompyfunc), which need the interpreter. Call it with cb.external."
        )
    return inner
