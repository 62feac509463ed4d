"""`ufunc`: a NumPy universal function as a JAX function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Generic, Self, overload

import numpy as np

from callbax import _jax, _native
from callbax._compiled import derivatives as _derivatives
from callbax._compiled import dtypes, error_state, gufuncs, loop_names, loops
from callbax._compiled.derivatives import CENTRAL, Central, Derivatives
from callbax._compiled.dtypes import Resolution
from callbax._host.trust import OptIn, import_path, stable_path
from callbax._jax import eager, frames
from callbax._runtime.errors import attribute, describe_function
from callbax._typing import P, R


@dataclasses.dataclass(frozen=True)
class UfuncSource:
    """One loop of a ufunc, as a source of loops.

    Attributes:
      original: what has been given by the user; Numba wraps the ufunc.
      index: of the loop.
    """

    original: Any
    index: int

    @property
    def name(self) -> str:
        return ufunc_inside(self.original).__name__

    @property
    def path(self) -> str | None:
        return import_path(self.original)

    @property
    def may_raise(self) -> bool:
        """SciPy's raise only as `error_state` says, and NumPy's too, but for integers to negative
        powers and where linear algebra wants memory; of others nobody knows."""
        path = self.path or ""
        if path == "numpy:power" or ufunc_inside(self.original).signature is not None:
            return True
        return not path.startswith(("numpy:", "numpy.", "scipy."))

    @property
    def program_name(self) -> dict[str, str] | None:
        path = stable_path(self.original)
        return None if path is None else {"loop": path}

    def address(self) -> tuple[int, int]:
        return _native.ufunc_loop(ufunc_inside(self.original), self.index)


class Ufunc(Generic[P, R]):
    """A NumPy universal function that JAX can call, differentiate and batch; see `callbax.ufunc`.

    Attributes:
      ufunc: the original, whose `nin` and `nout` it has, too.
      derivatives: the rules, one for each argument.

    >>> import callbax, numpy
    >>> callbax.ufunc(numpy.hypot).nin
    2
    """

    def __init__(self, original: Any, rules: tuple[Any, ...]):
        self._original = original
        self.ufunc = ufunc_inside(original)
        self.nin: int = self.ufunc.nin
        self.nout: int = self.ufunc.nout
        self.derivatives = rules
        self._opt_in = OptIn(original)  # programs of other processes may name it
        self.__name__ = self.__qualname__ = self.ufunc.__name__
        self._path = import_path(original)
        self._title = self._path.replace(":", ".") if self._path else self.__name__
        own = self.ufunc.__doc__
        self.__doc__ = f"`{self._title}` as a JAX function. Its own documentation:\n\n{own}"

    @frames.api_boundary
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs or len(args) != self.nin:
            by_name = f" and {', '.join(kwargs)} by name" if kwargs else ""
            raise TypeError(
                f"{self!r} takes {self.nin} argument(s), one array each and by position, but got "
                f"{len(args)}{by_name}"
            )
        if not eager.is_eager(args):
            return self._apply(args)
        key = self._without_derivatives, error_state.current(self._path)
        return eager.program(self.__name__, _make_eager, *key)(*args)

    def _apply(self, args: Sequence[Any]) -> Any:
        resolution = self._resolve(args)
        values = [
            dtypes.convert(arg, dtype)
            for arg, dtype in zip(args, resolution.operand_dtypes, strict=True)
        ]
        results = self._call(values, resolution)
        final: Any = tuple(
            _jax.convert_element_type(result, dtype)
            for result, dtype in zip(results, resolution.final_dtypes, strict=True)
        )
        return final[0] if self.nout == 1 else final

    def _resolve(self, args: Sequence[Any]) -> Resolution:
        return dtypes.resolve(self.ufunc, args)

    def _call(self, values: list[Any], resolution: Resolution) -> list[Any]:
        if self.ufunc.signature is None:
            return loops.bind_loop(
                self._loop(resolution),
                values,
                result_dtypes=resolution.result_dtypes,
                derivatives=self._differentiation,
            )
        dimensions = gufuncs.core_dimensions(
            self.ufunc.signature, [value.shape for value in values], repr(self)
        )
        results = loops.bind_loop(
            self._loop(resolution, dimensions.core),
            dimensions.expand(values),
            result_dtypes=resolution.result_dtypes,
            core_sizes=dimensions.sizes,
            derivatives=dataclasses.replace(self._differentiation, signature=dimensions.signature),
        )
        return dimensions.squeeze(results)

    def _loop(self, resolution: Resolution, core: tuple[tuple[int, ...], ...] = ()) -> loops.Loop:
        source = UfuncSource(self._original, resolution.index)
        return loops.Loop(source, resolution.operands, resolution.results, core, source.may_raise)

    @functools.cached_property
    def _differentiation(self) -> Derivatives:
        # Of a copy: what has been traced must not change when rules are set anew.
        copy = self.with_derivatives(self.derivatives)
        return Derivatives(copy, self.__name__, self.derivatives)

    @functools.cached_property
    def _without_derivatives(self) -> Self:
        return self.with_derivatives((None,) * self.nin)

    def with_derivatives(self, rules: tuple[Any, ...]) -> Self:
        """The same function with other rules, one for each argument, as `defjvps` takes them.

        >>> import jax, numpy as np
        >>> steps = ufunc(np.floor).with_derivatives((lambda t, y, x: t,))  # straight through
        >>> float(jax.grad(steps)(2.5))
        1.0
        """
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.__dict__.pop("_differentiation", None)
        copy.derivatives = rules
        return copy

    def defjvps(self, *rules: Any) -> None:
        """Sets the derivative rules, one for each argument, as `jax.custom_jvp.defjvps` does.

        Args:
          *rules: as `derivatives` of `callbax.ufunc`; None for an argument without derivative.

        >>> import jax, numpy as np
        >>> root = ufunc(np.cbrt)
        >>> root.defjvps(lambda t, y, x: t / (3 * y * y))
        >>> print(f"{jax.grad(root)(8.0):.4f}")
        0.0833
        """
        self.derivatives = _check(self.ufunc, rules)
        self.__dict__.pop("_differentiation", None)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Ufunc)
            and self._original is other._original
            and self.derivatives == other.derivatives
        )

    def __hash__(self) -> int:
        return hash(self.ufunc)

    def __reduce__(self) -> Any:
        return type(self), (self._original, self.derivatives)

    def __repr__(self) -> str:
        return f"<callbax.ufunc of {self._title}>"


def _make_eager(function: Ufunc, _errors: Any) -> Callable[..., Any]:
    return lambda *args: function._apply(args)


@overload
def ufunc(
    u: Ufunc[P, R], *, derivatives: Sequence[Any] | None = None, derivative: Central | None = None
) -> Ufunc[P, R]: ...
@overload
def ufunc(
    u: Any, *, derivatives: Sequence[Any] | None = None, derivative: Central | None = None
) -> Ufunc[..., Any]: ...
def ufunc(
    u: Any, *, derivatives: Sequence[Any] | None = None, derivative: Central | None = None
) -> Ufunc:
    """Makes a JAX function of a NumPy universal function with compiled loops.

    Its C loop is called directly, without Python and without the GIL, on all cores if that is worth
    it. Arguments broadcast, the loop is chosen by their types as NumPy chooses it, and the values are
    bit for bit the original's. With x64 disabled, the float32 loop is taken, and a result that would
    have 64 bits has 32; float16 and bfloat16 are computed in float32; integers promote as in JAX.

    An error state that differs from NumPy's default (`numpy.errstate`, and `scipy.special.errstate`
    for SciPy's functions) holds for the calls that are made, and in compiled functions traced, inside
    of it. "raise" becomes the error of the program, a `jax.errors.JaxRuntimeError` whose
    `callbax.original_exception` is the FloatingPointError or SpecialFunctionError.

    Args:
      u: a `numpy.ufunc` of NumPy, SciPy or any other library, the result of `numba.vectorize` or
        `numba.guvectorize` with given types, or a `Ufunc`, whose rules stay where none is given.
      derivatives: one entry for each argument. None: it cannot be differentiated. A function of the
        arguments: the partial derivative, elementwise (a tuple, if there are several results). A
        function of (tangent, answer, *arguments): the output's tangent, as in
        `jax.custom_jvp.defjvps`. "central": a central difference. A rule may call Ufuncs again, so
        that there are higher derivatives. Rules of generalised ufuncs take (tangent, answer,
        *arguments), and get one item, the core dimensions alone.
      derivative: "central" for every argument without a rule.

    Returns:
      A `Ufunc`: a function of `nin` arrays that works under every transformation of JAX.

    Raises:
      TypeError: `u` is not a ufunc, or is one without compiled loops; later, no loop for given types.
      ValueError: another `derivative`; later (`MissingDerivativeError`), an argument without a rule.

    >>> import callbax as cb, jax, numpy as np
    >>> hypot = cb.ufunc(np.hypot, derivatives=[lambda x, y: x / hypot(x, y),
    ...                                         lambda x, y: y / hypot(x, y)])
    >>> jax.jit(jax.grad(hypot, argnums=(0, 1)))(3.0, 4.0)
    (Array(0.6, dtype=float32, weak_type=True), Array(0.8, dtype=float32, weak_type=True))
    """
    if derivative not in (None, CENTRAL):
        raise ValueError(f'derivative must be "central" or None, but is {derivative!r}')
    if not isinstance(u, Ufunc):
        u = Ufunc(u, (None,) * ufunc_inside(u).nin)
    rules = u.derivatives
    if derivatives is not None:
        new = _check(u.ufunc, derivatives)
        rules = tuple(old if rule is None else rule for rule, old in zip(new, rules, strict=True))
    if derivative is not None:
        rules = _check(u.ufunc, [rule if callable(rule) else derivative for rule in rules])
    return u.with_derivatives(rules)


def _check(inner: np.ufunc, rules: Sequence[Any]) -> tuple[Any, ...]:
    return _derivatives.check(inner.__name__, rules, inner.nin, elementwise=inner.signature is None)


def ufunc_inside(original: Any) -> np.ufunc:
    """The ufunc itself.

    Raises:
      TypeError: it is not a ufunc, or nothing in it is compiled.
    """
    inner = original if isinstance(original, np.ufunc) else attribute(original, "ufunc")
    if not isinstance(inner, np.ufunc):
        raise TypeError(
            "callbax.ufunc takes a numpy.ufunc with compiled loops, but got "
            f"{describe_function(original)} of type {type(original).__name__}. callbax.external calls "
            "Python, callbax.native C; numba.vectorize(['float64(float64)']) makes a ufunc."
        )
    if not inner.types:
        raise TypeError(
            f"the ufunc {inner.__name__!r} has no compiled loops yet; give numba.vectorize the types, as "
            "in @numba.vectorize(['float64(float64)'])"
        )
    if all("O" in types for types in inner.types):
        raise TypeError(
            f"the ufunc {inner.__name__!r} has loops for Python objects only (as those of "
            "numpy.frompyfunc), which need the interpreter. Call it with callbax.external."
        )
    return inner


def _find(found: Any, types: str) -> loops.Loop | None:
    """The loop of an imported ufunc, for programs that another process has traced."""
    inner = found if isinstance(found, np.ufunc) else attribute(found, "ufunc")
    if not isinstance(inner, np.ufunc) or types not in inner.types:
        return None
    operands, results = (tuple(map(np.dtype, letters)) for letters in types.split("->"))
    source = UfuncSource(found, inner.types.index(types))
    core = gufuncs.core_numbers(inner.signature) if inner.signature else ()
    return loops.Loop(source, operands, results, core, source.may_raise)


loop_names.add_finder(_find)
