"""The functions that are Python around a ufunc: SciPy's values, mpmath's derivatives."""

import jax
import mpmath
import numpy as np
import pytest
import scipy.special

from callbax.scipy.special import digamma, lambertw, polygamma, zeta

X = np.linspace(-0.2, 5, 8)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def test_values_are_scipys():
    np.testing.assert_array_equal(lambertw(X), scipy.special.lambertw(X))
    np.testing.assert_array_equal(lambertw(X, -1), scipy.special.lambertw(X, -1))
    np.testing.assert_array_equal(zeta(X), scipy.special.zeta(X))
    np.testing.assert_array_equal(zeta(X, 2.5), scipy.special.zeta(X, 2.5))
    orders = np.arange(5)[:, None]
    expected = scipy.special.polygamma(orders, X + 1)
    np.testing.assert_allclose(polygamma(orders, X + 1), expected, rtol=1e-14)


def test_single_precision():
    with jax.enable_x64(False):
        # No float32 loop takes an int32: the arguments and the result are converted.
        np.testing.assert_allclose(lambertw(X, 1), scipy.special.lambertw(X, 1), rtol=1e-6)
        assert lambertw(1.0).dtype == np.complex64
        assert zeta(2.0).dtype == zeta(2.0, 3.0).dtype == np.float32
        assert polygamma(1, 2.0).dtype == np.float32


@pytest.mark.parametrize("branch", [-1, 0, 1])
def test_derivatives_of_lambertw(branch):
    points = X[1:] + 1j * np.linspace(-3, 3, 7)
    slopes = jax.vmap(jax.grad(lambda z: lambertw(z, branch), holomorphic=True))(points)
    expected = [
        complex(mpmath.diff(lambda z: mpmath.lambertw(z, branch), complex(z))) for z in points
    ]
    np.testing.assert_allclose(slopes, expected, rtol=1e-9)


def test_lambertw_has_the_derivative_1_at_0():
    assert jax.grad(lambda x: lambertw(x).real)(0.0) == 1.0


def test_derivatives_of_zeta():
    slopes = jax.vmap(jax.grad(lambda q: zeta(3.0, q)))(X + 1)
    expected = [float(mpmath.diff(lambda q: mpmath.zeta(3, q), float(x) + 1)) for x in X]
    np.testing.assert_allclose(slopes, expected, rtol=1e-9)


@pytest.mark.parametrize("order", [0, 1, 4])
def test_derivatives_of_polygamma(order):
    slopes = jax.vmap(jax.grad(lambda x: polygamma(order, x)))(X + 1)
    np.testing.assert_allclose(slopes, scipy.special.polygamma(order + 1, X + 1), rtol=1e-13)


def test_digamma_can_be_differentiated_again_and_again():
    third = jax.grad(jax.grad(jax.grad(digamma)))
    assert np.isclose(third(1.5), scipy.special.polygamma(3, 1.5), rtol=1e-13)
