"""derivative="central" of ufuncs, of C functions and of externals, against JAX's derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from scipy.special import cython_special

import callbax as cb

pytestmark = pytest.mark.sampled(8)

Z = np.complex64([0.3 + 0.2j, -1.2 + 0.7j, 2 - 0.4j])
X = np.float32([0.3, 1.2, -2.0])

# The function of NumPy, the same in JAX, points.
FUNCTIONS = {
    # Of complex arguments; conjugate, real, abs and angle are not holomorphic.
    "conjugate": (np.conjugate, jnp.conj, (Z,)),
    "absolute": (np.absolute, jnp.abs, (Z,)),
    "exp": (np.exp, jnp.exp, (Z,)),
    "multiply": (np.multiply, jnp.multiply, (Z, Z[::-1])),
    "real": (np.real, jnp.real, (Z,)),
    "imag": (np.imag, jnp.imag, (Z,)),
    "angle": (np.angle, jnp.angle, (Z,)),
    # Of real arguments.
    "tanh": (np.tanh, jnp.tanh, (X,)),
    "arctan2": (np.arctan2, jnp.arctan2, (X, X[::-1])),
    "turned": (lambda x: x * np.exp(1j * x), lambda x: x * jnp.exp(1j * x), (X,)),
    # Arguments broadcast.
    "outer": (np.hypot, jnp.hypot, (X[:, None], X)),
    "scalar": (np.multiply, jnp.multiply, (Z, np.float32(2))),
    # Integers have no derivative.
    "power": (np.power, jnp.power, (np.abs(X), np.int32(3))),
    "ldexp": (np.ldexp, jnp.ldexp, (X, np.int32([1, 2, 3]))),
}
UFUNCS = [name for name, (f, *_) in FUNCTIONS.items() if isinstance(f, np.ufunc)]
ENTRANCES = {
    "ufunc": lambda f: cb.ufunc(f, derivative="central"),
    "external": lambda f: cb.external(
        f,
        result=lambda *args: jax.eval_shape(REFERENCE[f], *args),
        derivative="central",
        vmap_method="sequential",
    ),
    "elementwise": lambda f: cb.external(f, result="broadcast", derivative="central"),
}
REFERENCE = {f: reference for f, reference, _ in FUNCTIONS.values()}
CASES = [
    (entrance, name)
    for name in FUNCTIONS
    for entrance in ENTRANCES
    if entrance == "external"
    or name in UFUNCS
    and not (entrance == "elementwise" and name in ("absolute",))
]


def directions(points):
    """Tangents: 1 and, for complex arguments, 1j for one argument after the other."""
    for i, point in enumerate(points):
        if not jnp.issubdtype(jnp.result_type(point), jnp.inexact):
            continue
        for unit in (1, 1j) if np.iscomplexobj(point) else (1,):
            yield tuple(tangent_of(other, unit if j == i else 0) for j, other in enumerate(points))


def tangent_of(point, unit):
    if not jnp.issubdtype(jnp.result_type(point), jnp.inexact):
        return np.zeros(np.shape(point), jax.dtypes.float0)
    return np.full_like(point, unit)


@pytest.mark.parametrize("entrance, name", CASES)
def test_forward_mode(entrance, name):
    function, reference, points = FUNCTIONS[name]
    ours, theirs = (
        jax.jit(lambda p, t, f=f: jax.jvp(f, p, t))
        for f in (ENTRANCES[entrance](function), reference)
    )
    for tangents in directions(points):
        value, actual = ours(points, tangents)
        expected_value, expected = theirs(points, tangents)
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(value, expected_value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(actual, expected, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("entrance, name", CASES)
def test_reverse_mode(entrance, name):
    function, reference, points = FUNCTIONS[name]
    f = ENTRANCES[entrance](function)
    value, pullback = jax.vjp(f, *points)
    pullback_of_reference = jax.jit(lambda c: jax.vjp(reference, *points)[1](c))
    for unit in (1, 1j) if jnp.iscomplexobj(value) else (1,):
        cotangent = jnp.full_like(value, unit)
        expected = pullback_of_reference(cotangent)
        for ours, theirs in zip(pullback(cotangent), expected, strict=True):
            assert ours.dtype == theirs.dtype
            if ours.dtype != jax.dtypes.float0:
                np.testing.assert_allclose(ours, theirs, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("name", ["tanh", "arctan2", "exp", "absolute"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_second_order(entrance, name):
    function, reference, points = FUNCTIONS[name]
    if entrance == "elementwise" and name == "absolute":
        pytest.skip('its result is real, which "broadcast" does not promise')
    f = ENTRANCES[entrance](function)

    def twice(f, inner, outer):
        return jax.jvp(lambda *p: jax.jvp(f, p, inner)[1], points, outer)[1]

    expected = jax.jit(functools.partial(twice, reference))
    for inner in directions(points):
        for outer in directions(points):
            actual = twice(f, inner, outer)
            np.testing.assert_allclose(actual, expected(inner, outer), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("entrance", ["ufunc", "elementwise"])
def test_precision(entrance, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray([0.3, -1.5, 40.0], dtype)
        gradient = jax.vmap(jax.grad(ENTRANCES[entrance](np.arctan)))(x)
        assert gradient.dtype == x.dtype
        expected = 1 / (1 + np.asarray(x).astype(float) ** 2)
        # The error is relative to the function's scale; ufuncs compute half precision in single.
        tolerance = 4 * float(jnp.finfo(dtype).eps) ** (2 / 3)
        np.testing.assert_allclose(np.asarray(gradient).astype(float), expected, atol=tolerance)


def test_c_functions():
    digamma = cb.native(cython_special.__pyx_capi__["__pyx_fuse_1psi"], derivative="central")
    x = np.float32([0.5, 1.5, 20])
    actual = jax.vmap(jax.grad(digamma))(x)
    np.testing.assert_allclose(actual, scipy.special.polygamma(1, x), rtol=3e-3, atol=1e-3)


def test_several_results_of_which_some_have_no_derivative():
    frexp = cb.ufunc(np.frexp, derivative="central")
    (mantissa, exponent), (tangent, none) = jax.jvp(frexp, (3.0,), (1.0,))
    assert (mantissa, exponent) == (0.75, 2)
    np.testing.assert_allclose(tangent, 0.25, rtol=1e-3)
    assert none.dtype == jax.dtypes.float0
    divmod_ = cb.ufunc(np.divmod, derivative="central")
    _, (_, remainder) = jax.jvp(divmod_, (7.3, 2.0), (1.0, 0.0))
    np.testing.assert_allclose(remainder, 1, rtol=1e-3)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_central_differences_go_to_the_second_order(transform):
    with jax.enable_x64(True):
        sine = cb.ufunc(np.sin, derivative="central")
        second = transform(jax.grad(jax.grad(sine)))
        assert np.isclose(second(1.0), -np.sin(1.0), atol=1e-3)
        with pytest.raises(NotImplementedError, match="sin .* go to the second order. Give a rule"):
            transform(jax.grad(second))(1.0)
