"""cb.ufunc of generalised ufuncs: loops over core dimensions."""

import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
from numpy.linalg import _umath_linalg

import callbax as cb

matmul = cb.ufunc(np.matmul, derivatives=[lambda t, ans, a, b: t @ b, lambda t, ans, a, b: a @ t])
SHAPES = [
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (6, 3, 4)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((3,), (3,)),
    ((7, 2, 3), (3,)),
    ((2, 0), (0, 4)),
    ((0, 2, 3), (3, 4)),
]


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_core_dimensions_may_be_left_out_and_the_others_broadcast(shapes):
    a, b = (normal(*shape) for shape in shapes)
    np.testing.assert_array_equal(jax.jit(matmul)(a, b), np.matmul(a, b))


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_rules_see_one_item(shapes):
    a, b = (normal(*shape) for shape in shapes)
    with jax.default_matmul_precision("highest"):
        ours, theirs = (
            jax.jit(jax.grad(lambda a, b, f=f: jnp.sin(f(a, b)).sum(), (0, 1)))(a, b)
            for f in (matmul, jnp.matmul)
        )
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_vmap_adds_a_loop_dimension():
    a, b = normal(2, 5, 3), normal(6, 3, 4)
    result = jax.vmap(jax.vmap(matmul, (None, 0)), (1, None))(a, b)
    np.testing.assert_array_equal(result, np.stack([np.matmul(a[:, i], b) for i in range(5)]))


def test_second_derivatives():
    inv = cb.ufunc(_umath_linalg.inv, derivatives=[lambda t, answer, a: -answer @ t @ answer])
    a = normal(3, 3) + 3 * np.eye(3, dtype=np.float32)
    ours, theirs = (jax.hessian(lambda a, f=f: f(a).sum())(a) for f in (inv, jnp.linalg.inv))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_several_results_and_types():
    a = normal(4, 3, 3)
    a = a + a.transpose(0, 2, 1)
    for u in (_umath_linalg.eigh_lo, _umath_linalg.slogdet, _umath_linalg.det):
        ours, theirs = jax.jit(cb.ufunc(u))(a), u(a)
        for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(x, y, strict=True)


def test_double_loops_without_x64_convert_whole_items():
    f = numba.guvectorize(["void(float64[:,:], float64[:], float64[:])"], "(m,n),(n)->(m)")(
        _product
    )
    a, x = normal(50, 40, 60), normal(60)
    result = cb.ufunc(f)(a, x)
    assert result.dtype == np.float32
    expected = f(a.astype(np.float64), x.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(result, expected)


def _product(a, x, out):
    for i in range(a.shape[0]):
        out[i] = 0
        for j in range(a.shape[1]):
            out[i] += a[i, j] * x[j]


def test_wrong_shapes_and_rules_say_so():
    with pytest.raises(ValueError, match="dimension k of argument 1 of .*matmul> is 4, but 3"):
        matmul(normal(2, 3), normal(4, 2))
    with pytest.raises(ValueError, match="argument 0 of .*inv> has shape .3,., but the signature"):
        cb.ufunc(_umath_linalg.inv)(normal(3))
    with pytest.raises(TypeError, match="matmul has core dimensions.*tangent, answer"):
        cb.ufunc(np.matmul, derivatives=[lambda a, b: b, None])
    with pytest.raises(TypeError, match="matmul has core dimensions"):
        cb.ufunc(np.matmul, derivative="central")
    with pytest.raises(
        NotImplementedError, match="lambda tangent, answer, .*output's tangent, or stop"
    ):
        jax.grad(cb.ufunc(_umath_linalg.det))(normal(3, 3))
