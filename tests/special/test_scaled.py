"""Functions that are scaled by exp(-|Re z|) or exp(-|Im z|) have no complex derivative.

They have a tangent for each direction, which is compared with mpmath's directional derivative.
"""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from special.cases.airy import AIRYE
from special.truth import DIGITS, Disc, draw

import callbax.scipy.special as special

ORDER = 1.3
DIRECTIONS = [1.0, 1j, 0.6 - 0.8j]


def scaled(function, part):
    return lambda z: function(ORDER, z) * mpmath.exp(-abs(part(z)))


FUNCTIONS = {
    "jve": (lambda z: special.jve(ORDER, z), scaled(mpmath.besselj, mpmath.im)),
    "yve": (lambda z: special.yve(ORDER, z), scaled(mpmath.bessely, mpmath.im)),
    "ive": (lambda z: special.ive(ORDER, z), scaled(mpmath.besseli, mpmath.re)),
    **{
        f"airye[{i}]": (lambda z, i=i: special.airye(z)[i], reference)
        for i, reference in enumerate(AIRYE)
    },
}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_tangents_of_scaled_functions(name, direction):
    function, reference = FUNCTIONS[name]
    points = draw(np.random.default_rng(0), Disc(4.0, 0.5), 10)
    _, ours = jax.jvp(function, (points,), (jnp.full(points.shape, direction, complex),))
    with mpmath.workdps(DIGITS):
        expected = [
            mpmath.diff(lambda t, z=z: reference(mpmath.mpc(z) + t * mpmath.mpc(direction)), 0)
            for z in points.tolist()
        ]
    np.testing.assert_allclose(ours, np.array([complex(e) for e in expected]), rtol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_scaled_functions_follow_the_tangents(name):
    """For real-valued functions jax.grad gives ∂/∂x - i ∂/∂y."""
    function, _ = FUNCTIONS[name]

    def size(z):
        return jnp.sum(jnp.abs(function(z)) ** 2)

    points = draw(np.random.default_rng(1), Disc(3.0, 0.5), 5)
    along = [
        [jax.jvp(size, (points,), (direction * row,))[1] for row in np.eye(5)]
        for direction in (1 + 0j, 1j)
    ]
    expected = np.array(along[0]) - 1j * np.array(along[1])
    np.testing.assert_allclose(jax.grad(size)(points), expected, rtol=1e-9)


def test_orders_of_scaled_functions_compose_at_real_arguments():
    x = np.linspace(0.5, 9, 7)
    for name, plain in [("jve", special.jv), ("yve", special.yv)]:
        function, _ = FUNCTIONS[name]
        ours = jax.vmap(jax.grad(jax.grad(lambda x, f=function: f(x).real)))(x)
        expected = jax.vmap(jax.grad(jax.grad(lambda x, f=plain: f(ORDER, x))))(x)
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
