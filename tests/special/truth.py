"""What derivatives are compared with: mpmath's, taken numerically at high precision.

A file of `cases` has one table, `CASES`, for one family of functions:

    CASES = [
        Case("gamma", "z", mpmath.gamma, [(0.1, 20.0)], points=[(0.5,), (-1.5,)], second=True),
        Case("gamma", "z", mpmath.gamma, [Disc(5.0)]),                     # a complex argument
        Case("betainc", "x", betainc, [(0.1, 9.0), (0.1, 9.0), (0.01, 0.99)], exact={...}),
    ]

A case gives a function, those of its arguments whose derivatives are tested, its values in mpmath,
and where to test: for each argument an interval, a range of integers, a list to choose from or a
disc of the complex plane, in which points are drawn; points to add; and points at which the
derivative is known although mpmath cannot compute it, such as infinities and poles. `Integers` are
of an integer type, for which some functions have loops of their own.

Functions that mpmath lacks are compared with differences of SciPy's own values: `Differences`.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import mpmath
import numpy as np
import scipy.special

import callbax.scipy.special as special
from callbax.scipy.special._catalogue import entries

POINTS = 16
DIGITS = 30


@dataclass(frozen=True)
class Disc:
    """The complex numbers up to the radius around the centre."""

    radius: float
    centre: complex = 0.0


@dataclass(frozen=True)
class Integers:
    """The integers from `start` up to, not including, `stop`, as integers."""

    start: int
    stop: int


@dataclass(frozen=True)
class Differences:
    """Derivatives by central differences of eighth order of a result of SciPy's function."""

    function: str
    result: int = 0
    step: float = 0.02

    # For 1, 2, 3 and 4 steps from the point, and for none.
    FIRST = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
    SECOND = (8 / 5, -1 / 5, 8 / 315, -1 / 560)
    SECOND_HERE = -205 / 72

    def __call__(self, *values: Any) -> Any:
        found = getattr(scipy.special, self.function)(*values)
        return found[self.result] if isinstance(found, tuple) else found

    def derivative(self, argument: int, values: Sequence[Any], order: int) -> np.ndarray:
        def moved(steps: int) -> Any:
            there = [v + steps * self.step * (i == argument) for i, v in enumerate(values)]
            return self(*there)

        pairs = [(moved(k), moved(-k)) for k in (1, 2, 3, 4)]
        if order == 1:
            weighted = [c * (a - b) for c, (a, b) in zip(self.FIRST, pairs, strict=True)]
            return sum(weighted) / self.step
        weighted = [c * (a + b) for c, (a, b) in zip(self.SECOND, pairs, strict=True)]
        return (sum(weighted) + self.SECOND_HERE * moved(0)) / self.step**2


Domain = tuple[float, float] | range | list | Disc | Integers


@dataclass(frozen=True)
class Case:
    """One function, and where its derivatives are to be right.

    Attributes:
      function: its name.
      arguments: the names, separated by spaces, of the arguments to differentiate by.
      reference: the function in mpmath; for several results a tuple of functions, with None for
        what mpmath does not have.
      domain: for each argument, where to draw points; empty if only `points` are to be tested.
      points: more points, each a tuple of all arguments.
      exact: from points to derivatives, by the first of `arguments`; a tuple for several results.
      second: test the second derivative too.
      rtol: the relative error that is allowed.
      why: the reason, if that is more than 1e-9.
      count: how many points to test, if the reference is a slow one.
      step: that of the numerical derivative; needed where the reference is itself the
        result of a numerical method, less precise than mpmath's functions.
    """

    function: str
    arguments: str
    reference: Callable[..., Any] | Sequence[Callable[..., Any] | None]
    domain: Sequence[Domain]
    points: Sequence[tuple] = ()
    exact: Mapping[tuple, Any] = field(default_factory=dict)
    second: bool = False
    rtol: float = 1e-9
    why: str = ""
    count: int = POINTS
    step: float | None = None

    def __post_init__(self) -> None:
        assert self.rtol <= 1e-9 or self.why, f"{self.function}: say why it is less precise"

    def __str__(self) -> str:
        kind = "-complex" if self.is_complex else ""
        return f"{self.function}-{self.arguments.replace(' ', ',')}{kind}"

    @property
    def is_complex(self) -> bool:
        return any(isinstance(domain, Disc) for domain in self.domain)

    def sample(self) -> list[np.ndarray]:
        """The points: an array for each argument."""
        if not self.domain:
            return self.draw(self.count)
        # Always as many, so one program will do for the special ones too.
        drawn = self.draw(self.count - len(self.points))
        extra = zip(*self.points, strict=True) if self.points else [()] * len(drawn)
        return [np.append(column, more) for column, more in zip(drawn, extra, strict=True)]

    def draw(self, count: int) -> list[np.ndarray]:
        """Random points only, if there is a domain."""
        if not self.domain:
            return [np.array(column) for column in zip(*self.points, strict=True)]
        # The seed stays the same when other cases come and go.
        random = np.random.default_rng(zlib.crc32(str(self).encode()))
        return [draw(random, domain, count) for domain in self.domain]

    def special(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The points at which the derivatives are known, and these, as `sample` has them."""
        repeated = [list(self.exact.items())[i % len(self.exact)] for i in range(self.count)]
        points, known = zip(*repeated, strict=True)
        known = [value if isinstance(value, tuple) else (value,) for value in known]
        return [np.array(c) for c in zip(*points, strict=True)], list(zip(*known, strict=True))


def inverse(function: str, equation: Callable[..., Any]) -> Callable[..., Any]:
    """The reference for SciPy's inverse function: the root x of equation(x, *arguments).

    SciPy's own value is where to start from.
    """

    def solve(*args: Any) -> Any:
        start = mpmath.mpf(float(getattr(scipy.special, function)(*map(float, args))))
        starts = (start, start * (1 + mpmath.mpf(10) ** -7) + mpmath.mpf(10) ** -12)
        return mpmath.findroot(lambda x: equation(x, *args), starts)

    return solve


def draw(random: np.random.Generator, domain: Domain, count: int) -> np.ndarray:
    match domain:
        case Disc(radius=radius, centre=centre):
            size, angle = random.uniform(0, 1, count), random.uniform(0, 2 * np.pi, count)
            return centre + radius * np.sqrt(size) * np.exp(1j * angle)
        case range():
            return random.integers(domain.start, domain.stop, count).astype(float)
        case Integers():
            return random.integers(domain.start, domain.stop, count)
        case list():
            return random.choice(domain, count)
        case low, high:
            return random.uniform(low, high, count)


def position(function: str, argument: str) -> int:
    """Which of the function's arguments this is."""
    return list(entries()[function]).index(argument)


@functools.cache
def evaluation(function: str, argument: int, *more: str) -> Callable[..., dict[str, list]]:
    """Computes a function's values and derivatives by one of its arguments, in one program.

    That is "value", "first" and, if wanted, "second" and "reverse" (the first derivative in reverse
    mode): a list with an array for each result.
    """

    def evaluate(*values: Any) -> dict[str, list]:
        before, x, after = values[:argument], values[argument], values[argument + 1 :]

        def f(x: Any) -> list:
            result = getattr(special, function)(*before, x, *after)
            return list(result) if isinstance(result, tuple) else [result]

        computed = {"value": f(x), "first": derivative(f)(x)}
        if "second" in more:
            computed["second"] = derivative(derivative(f))(x)
        if "reverse" in more:
            value, pull_back = jax.vjp(f, x)
            computed["reverse"] = [pull_back(only(value, i))[0] for i in range(len(value))]
        return computed

    # What is wanted is a short time to compile, not a fast program.
    return jax.jit(evaluate, compiler_options={"xla_backend_optimization_level": 0})


def derivative(f: Callable[..., Any]) -> Callable[..., Any]:
    """The elementwise derivative, for each result."""
    return lambda x: jax.jvp(f, (x,), (jax.numpy.ones_like(x),))[1]


def only(results: list, chosen: int) -> list:
    """A cotangent of one in one of the results, and of zero in the others."""
    return [jax.numpy.full_like(result, i == chosen) for i, result in enumerate(results)]


def true_derivatives(
    reference: Callable[..., Any], argument: int, values: Sequence[Any], order: int, step: Any
) -> np.ndarray:
    """mpmath's derivatives of the function, at each of the points; complex."""
    if isinstance(reference, Differences):
        return reference.derivative(argument, values, order).astype(complex)
    orders = tuple(order if i == argument else 0 for i in range(len(values)))
    options = {} if step is None else {"h": mpmath.mpf(step)}
    with mpmath.workdps(DIGITS):
        results = [
            mpmath.diff(reference, tuple(map(mpmath.mpmathify, point)), orders, **options)
            for point in zip(*(np.asarray(column).tolist() for column in values), strict=True)
        ]
    return np.array([complex(result) for result in results])
