"""One table of the ways in which an external function can have a derivative.

All routes but the linear ones wrap one function, x and y to sin(x) y + mean(x) y², whose Jacobian is
full; "broadcast" ones wrap sin(x) y.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import callbax as cb

MATRIX = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, 1.0], [2.0, 1.0, -1.0]])


@dataclasses.dataclass(frozen=True)
class Route:
    """A way to a derivative.

    Attributes:
      make: the external function; takes the keywords of `callbax.external`.
      reference: the same function in JAX.
      forward, reverse: the highest order in each mode.
      tolerance: of first derivatives, for float64 and float32.
      complex: whether arguments may be complex.
    """

    name: str
    make: Callable[..., Any]
    reference: Callable[..., Any]
    forward: int = 1
    reverse: int = 1
    tolerance: tuple[float, float] = (1e-9, 1e-4)
    complex: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def orders(self) -> int:
        return max(self.forward, self.reverse)

    @property
    def modes(self) -> list[str]:
        return [m for m, order in (("fwd", self.forward), ("rev", self.reverse)) if order]


def full(x, y):
    return np.sin(x) * y + x.mean(-1, keepdims=True) * y**2


def full_in_jax(x, y):
    return jnp.sin(x) * y + x.mean(-1, keepdims=True) * y**2


def elementwise(x, y):
    return np.sin(x) * y


def elementwise_in_jax(x, y):
    return jnp.sin(x) * y


def linear(x, y):
    return x @ MATRIX.T.astype(x.dtype) + 2 * y


def linear_in_jax(x, y):
    return x @ MATRIX.T.astype(x.dtype) + 2 * y


def linear_transpose(ct):
    return ct @ MATRIX.astype(ct.dtype), 2 * ct


def host_jvp(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    through_mean = dx.mean(-1, keepdims=True) * y**2 + 2 * x.mean(-1, keepdims=True) * y * dy
    return np.cos(x) * y * dx + np.sin(x) * dy + through_mean


def host_vjp(primals, outputs, cotangents):
    x, y = primals
    assert outputs.dtype == cotangents.dtype
    of_mean = (cotangents * y**2).sum(-1, keepdims=True) / x.shape[-1]
    of_x = np.cos(x) * y * cotangents + of_mean
    return of_x, cotangents * (np.sin(x) + 2 * x.mean(-1, keepdims=True) * y)


def full_and_object(x, y):
    return full(x, y), (x.copy(), y.copy())


def host_vjp_of_object(primals, outputs, cotangents, kept):
    for array, primal in zip(kept, primals, strict=True):
        np.testing.assert_array_equal(array, primal)
    return host_vjp(kept, outputs, cotangents)


def _full(**options):
    return cb.external(full, **{"result": cb.like(0), **options})


def _elementwise(**options):
    return cb.external(elementwise, **{"result": "broadcast", **options})


def _with(define: Callable[[Any], None], make: Callable[..., Any] = _full) -> Callable[..., Any]:
    def make_with_rule(**options):
        f = make(**options)
        define(f)
        return f

    return make_with_rule


def _numerical(kind: str, make: Callable[..., Any] = _full) -> Callable[..., Any]:
    return lambda **options: make(derivative=kind, **options)


def _jvp(f):
    def rule(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        of_y = jnp.sin(x) + 2 * x.mean() * y
        return f(x, y), jnp.cos(x) * y * dx + dx.mean() * y**2 + of_y * dy

    f.defjvp(rule)


def _jvps(f):
    f.defjvps(
        lambda dx, answer, x, y: jnp.cos(x) * y * dx + dx.mean() * y**2,
        lambda dy, answer, x, y: dy * (answer + x.mean() * y**2) / y,
    )


def _vjp(f):
    def forward(x, y):
        return f(x, y), (x, y)

    def backward(residuals, ct):
        x, y = residuals
        of_x = jnp.cos(x) * y * ct + (ct * y**2).sum() / x.size
        return of_x, ct * (jnp.sin(x) + 2 * x.mean() * y)

    f.defvjp(forward, backward)


def _host(jvp=False, vjp=False):
    def define(f):
        if jvp:
            f.def_host_jvp(host_jvp)
        if vjp:
            f.def_host_vjp(host_vjp)

    return define


def _with_object(**options):
    f = cb.external(full_and_object, **{"result": cb.like(0), **options})
    f.def_host_vjp(host_vjp_of_object, residuals=True)
    return f


def _transpose_on_host(f):
    f.def_transpose(linear_transpose)


def _transpose_external(f):
    f.def_transpose(
        cb.external(linear_transpose, result=lambda ct: (ct, ct), vmap_method="expand_dims")
    )


def _linear(**options):
    return cb.external(linear, **{"result": cb.like(0), **options})


CENTRAL, FORWARD = (1e-6, 5e-2), (1e-4, 2e-1)
ROUTES = [
    Route("defjvp", _with(_jvp), full_in_jax, 3, 3),
    Route("defjvps", _with(_jvps), full_in_jax, 3, 3),
    Route("defvjp", _with(_vjp), full_in_jax, 0, 2),
    Route("host jvp", _with(_host(jvp=True)), full_in_jax),
    Route("host vjp", _with(_host(vjp=True)), full_in_jax),
    Route("host vjp with residuals", _with_object, full_in_jax),
    Route("host jvp and vjp", _with(_host(jvp=True, vjp=True)), full_in_jax),
    Route("transpose", _with(_transpose_on_host, _linear), linear_in_jax, 3, 3),
    Route("external transpose", _with(_transpose_external, _linear), linear_in_jax, 3, 3),
    Route("central", _numerical("central"), full_in_jax, 2, 2, CENTRAL),
    Route("forward", _numerical("forward"), full_in_jax, 2, 2, FORWARD),
    Route("complex_step", _numerical("complex_step"), full_in_jax, 2, 2, complex=False),
    Route(
        "central, broadcast",
        _numerical("central", _elementwise),
        elementwise_in_jax,
        2,
        2,
        CENTRAL,
    ),
    Route(
        "complex_step, broadcast",
        _numerical("complex_step", _elementwise),
        elementwise_in_jax,
        2,
        2,
        complex=False,
    ),
]


def each(*conditions: Callable[[Route], bool]) -> Any:
    """Parametrises a test over the routes for which all conditions hold."""
    chosen = [route for route in ROUTES if all(holds(route) for holds in conditions)]
    return pytest.mark.parametrize("route", chosen, ids=str)
