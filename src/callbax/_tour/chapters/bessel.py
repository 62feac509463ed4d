"""A function of SciPy with its derivative: the Bessel function.

JAX has no Bessel function of integer order, SciPy has one. A `pure_callback` brings it into JAX,
and `jax.custom_jvp` gives it the derivative that no transformation could find by itself.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special  # type: ignore[import-untyped]

import callbax
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)


def bessel_on_host(order: np.ndarray, z: np.ndarray) -> np.ndarray:
    return scipy.special.jv(order, z).astype(z.dtype)


def bessel(
    order: jax.typing.ArrayLike, z: jax.typing.ArrayLike
) -> jax.Array:
    order, z = jnp.asarray(order), jnp.asarray(z, float)
    # Integer orders have no derivative with respect to the order.
    assert jnp.issubdtype(order.dtype, jnp.integer)
    result = jax.ShapeDtypeStruct(
        jnp.broadcast_shapes(order.shape, z.shape), z.dtype
    )
    # SciPy broadcasts, so that a batch takes a single call.
    return callbax.pure_callback(
        bessel_on_host, result, order, z, vmap_method="expand_dims"
    )


jv = jax.custom_jvp(bessel)


@jv.defjvp
def jv_derivative(
    primals: tuple, tangents: tuple
) -> tuple[jax.Array, jax.Array]:
    order, z = primals
    _, z_dot = tangents  # the order is an integer and has no tangent
    below, above = jv(order - 1, z), jv(order + 1, z)
    derivative = jnp.where(order == 0, -above, (below - above) / 2)
    return jv(order, z), derivative * z_dot


@chapter.example("bessel_on_host", "bessel")
def called_directly() -> None:
    """The callback."""
    j1 = partial(bessel, 1)
    z = jnp.arange(5.0)
    print(j1(z))
    assert np.allclose(
        j1(z), scipy.special.jv(1, np.arange(5.0)), rtol=1e-5
    )


@chapter.example()
def under_jit_and_vmap() -> None:
    """Under jit, under vmap."""
    j1 = partial(bessel, 1)
    z = jnp.arange(5.0)
    print(jax.jit(j1)(z))
    print(jax.vmap(j1)(z))
    assert np.array_equal(jax.jit(j1)(z), j1(z)) and np.array_equal(
        jax.vmap(j1)(z), j1(z)
    )


@chapter.example(prints="ValueError: Pure callbacks do not support JVP.*")
def without_rule() -> None:
    """Not under grad, yet."""
    try:
        jax.grad(partial(bessel, 1))(2.0)
    except ValueError as error:
        print("ValueError:", error)


@chapter.example("jv", "jv_derivative")
def under_grad() -> None:
    """The derivative, by a rule.

    Bessel functions of neighbouring orders give it: J0' = -J1, and otherwise
    Jn' = (J(n-1) - J(n+1)) / 2. SciPy's own derivative `jvp` is shown beside it.
    """
    for order in (0, 1, 2):
        derivative = jax.grad(partial(jv, order))(2.0)
        expected = scipy.special.jvp(order, 2.0)
        print(
            f"J{order}'(2) = {derivative:.6f}   scipy's jvp: {expected:.6f}"
        )
        assert np.allclose(derivative, expected, rtol=1e-5)


@chapter.example()
def second_derivative() -> None:
    """The second derivative, for free.

    The rule is written in terms of `jv`, which has a rule, so derivatives of every order follow,
    jitted and batched alike.
    """
    second = jax.jit(jax.vmap(jax.hessian(partial(jv, 1))))
    z = jnp.arange(1.0, 5.0)
    expected = scipy.special.jvp(1, np.arange(1.0, 5.0), 2)
    print("J1''(z) =         ", second(z))
    print("scipy.special.jvp:", expected.astype(np.float32))
    assert np.allclose(second(z), expected, rtol=1e-4, atol=1e-6)


short_jv = callbax.external(scipy.special.jv, result="broadcast")
short_jv.defjvps(
    None,
    lambda tangent, answer, order, z: (
        tangent * (short_jv(order - 1, z) - short_jv(order + 1, z)) / 2
    ),
)


@chapter.example("short_jv")
def with_external() -> None:
    """The same in three lines.

    `callbax.external` works out shapes, dtypes and batches from `result="broadcast"`, and the rule
    is shown beside it.
    """
    z = jnp.arange(1.0, 5.0)
    second = jax.jit(jax.vmap(jax.hessian(partial(short_jv, 1))))
    print("J1(z)   =", short_jv(1, z))
    print("J1''(z) =", second(z))
    assert np.allclose(short_jv(1, z), jv(1, z), rtol=1e-6)
    expected = scipy.special.jvp(1, np.arange(1.0, 5.0), 2)
    assert np.allclose(second(z), expected, rtol=1e-4, atol=1e-6)


@chapter.example()
def without_python() -> None:
    """In none, and without Python.

    `callbax.scipy.special` has every ufunc of SciPy's module. A compiled program calls the C code
    itself, on all cores, and the derivatives are known.
    """
    special = callbax.scipy.special
    z = jnp.arange(1.0, 5.0)
    second = jax.jit(jax.vmap(jax.hessian(partial(special.jv, 1.0))))
    first = jax.jit(jax.vmap(jax.grad(partial(special.jv, 0.5))))
    print("J1(z)     =", jax.jit(special.jv)(1.0, z))
    print("J1''(z)   =", second(z))
    print("J0.5'(z)  =", first(z))
    expected = scipy.special.jvp(0.5, np.arange(1.0, 5.0))
    assert np.allclose(first(z), expected, rtol=1e-5)
