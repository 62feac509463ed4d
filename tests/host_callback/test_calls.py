"""host_callback.call: its results, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EAGER_AND_JIT, error_of
from jax import lax
from taps import Taps

import callbax
from callbax import host_callback


@EAGER_AND_JIT
def test_pytrees_in_and_out(transform):
    def swap(pair):
        return pair[1], {"a": pair[0]}

    def f(x):
        return host_callback.call(swap, (x, x + 1), result_shape=(x, {"a": x}))

    first, second = transform(f)(np.arange(3))
    assert first.tolist() == [1, 2, 3]
    assert second["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("result_shape", "returned", "dtype"),
    [
        (3, np.int32(4), "int32"),
        (2.5, 4.0, "float32"),
        (True, True, "bool"),
        (np.float64(0), np.float64(4), "float32"),
        (np.zeros(2), np.ones(2), "float32"),
        (jax.ShapeDtypeStruct((0, 2), jnp.bfloat16), np.ones((0, 2), jnp.bfloat16), "bfloat16"),
    ],
)
def test_result_shapes(result_shape, returned, dtype):
    """Numbers, arrays and structs say the shape and the dtype, which is one that JAX has now."""
    result = host_callback.call(lambda _: returned, 0, result_shape=result_shape)
    assert result.dtype == dtype
    assert result.tolist() == np.asarray(returned).tolist()


@pytest.mark.parametrize("result_shape", [None, ()])
@pytest.mark.parametrize("returned", [None, ()])
def test_no_result(result_shape, returned):
    seen = []

    def f(x):
        seen.append(int(x))
        return returned

    assert host_callback.call(f, 3, result_shape=result_shape) == result_shape
    host_callback.barrier_wait()
    assert seen == [3]


def test_no_argument():
    assert host_callback.call(lambda nothing: np.int32(len(nothing)), (), result_shape=0) == 0


def test_loops_and_conditions():
    taps = Taps()

    @jax.jit
    def f(x):
        def body(i, x):
            return lax.cond(i % 2 == 1, lambda: taps.call(x + i), lambda: x)

        return lax.fori_loop(0, 6, body, x)

    assert f(0) == 9
    assert taps.values() == [1, 4, 9]
    found = lax.while_loop(
        lambda i: host_callback.call(lambda i: i < 3, i, result_shape=True), lambda i: i + 1, 0
    )
    assert found == 3


def test_a_rule_gives_it_a_derivative():
    taps = Taps()
    f = jax.custom_jvp(lambda x: taps.call(x) ** 2)
    f.defjvps(lambda tangent, answer, x: 2 * x * tangent)
    assert jax.grad(f)(3.0) == 6.0


@pytest.mark.parametrize(
    ("returned", "phrase"),
    [
        (
            (1.0,),
            "Mismatched structure of the result. Expected: PyTreeDef(*), Actual: PyTreeDef((*,))",
        ),
        (
            None,
            "Mismatched structure of the result. Expected: PyTreeDef(*), Actual: PyTreeDef(None)",
        ),
        (np.ones(3, np.float32), "Expected: (2,), Actual: (3,)"),
        (np.ones(2, np.int32), "Expected: float32, Actual: int32"),
    ],
)
def test_another_result_than_promised(returned, phrase):
    def wrong(x):
        return returned

    shape = jax.ShapeDtypeStruct((2,), np.float32)
    error = error_of(jax.jit(lambda x: host_callback.call(wrong, x, result_shape=shape)), 1.0)
    assert type(error) is callbax.CallbackResultError
    assert phrase in str(error)
    assert "result_shape" in str(error)
    assert "result_shape_dtypes" not in str(error)
    assert "wrong (" in str(error)


def test_its_exception_is_the_callers():
    def broken(x):
        raise KeyError("lost")

    error = error_of(jax.jit(lambda x: host_callback.call(broken, x, result_shape=x)), 1.0)
    assert repr(error) == "KeyError('lost')"
    host_callback.barrier_wait()  # it has surfaced


def test_refused_under_vmap_and_derivatives():
    def f(x):
        return host_callback.call(np.sin, x, result_shape=x)

    with pytest.raises(NotImplementedError, match=r"`vmap` has reached the call of sin"):
        jax.vmap(f)(jnp.arange(3.0))
    with pytest.raises(ValueError, match=r"host_callback.call does not support JVP.*sin"):
        jax.grad(f)(1.0)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match=r"callbax.host_callback.call must be callable.*'int'"):
        host_callback.call(3, 1.0)
    with pytest.raises(TypeError, match="arg must be a pytree of arrays, but has 'a' of type str"):
        host_callback.call(np.sin, "a", result_shape=1.0)
    with pytest.raises(TypeError, match="result_shape of the callback sin must be .* has 'a'"):
        host_callback.call(np.sin, 1.0, result_shape="a")
    with pytest.raises(TypeError, match="callback_flavor"):
        host_callback.call(np.sin, 1.0, result_shape=1.0, callback_flavor=1)
