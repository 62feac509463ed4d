"""Functions of elements, which XLA compiles into its own loops: an error, not the end of the process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import callbax as cb

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
X = jnp.arange(4.0)


def callback(*args):
    return cb.pure_callback(lambda *args: np.float32(sum(args)), SCALAR, *args)


FUNCTIONS = {
    "callbax.pure_callback of": callback,
    "callbax.external of sin": lambda x, *_: cb.external(np.sin, result="broadcast")(x),
    "the compiled function j0": lambda x, *_: cb.ufunc(scipy.special.j0)(x),
    "the compiled function jv": lambda x, *_: cb.scipy.special.jv(0.0, x),
}
REDUCTIONS = {
    "jax.lax.reduce": lambda f: jax.lax.reduce(X, 0.0, f, (0,)),
    "jax.lax.reduce_window": lambda f: jax.lax.reduce_window(X, 0.0, f, (2,), (1,), "SAME"),
    "x.at": lambda f: X.at[jnp.array([1, 2])].apply(f),
}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["as_it_is", "jit"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_host_cannot_be_called_for_each_element(function, reduction, wrap):
    with pytest.raises(NotImplementedError, match=f"{function}.*{reduction}.*cannot call the host"):
        REDUCTIONS[reduction](wrap(FUNCTIONS[function]))


def test_functions_without_callbacks_are_reduced_as_ever():
    assert jax.lax.reduce(X, 0.0, jnp.add, (0,)) == 6
    assert X.at[1].apply(jnp.negative).tolist() == [0, -1, 2, 3]
    assert X.at[1].set(callback(X[1])).tolist() == [0, 1, 2, 3]
