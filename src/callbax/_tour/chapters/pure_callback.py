"""pure_callback: functions without side effects.

The flavour to reach for first. You promise that the function does nothing but compute its result;
in return the compiler may treat the call as any other operation: move it, repeat it, drop it.
JAX cannot look into the function, so you say which shapes and dtypes it returns.
"""

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)


def sine_on_host(x: np.ndarray) -> np.ndarray:
    return np.sin(x).astype(x.dtype)


def sine(x: jax.Array) -> jax.Array:
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return callbax.pure_callback(sine_on_host, result, x)


def announce() -> np.int32:
    print("the callback runs")
    return np.int32(0)


@chapter.example("sine_on_host", "sine")
def called_directly() -> None:
    """NumPy's sine as a JAX function.

    The host function gets NumPy arrays and returns one. They are its own: it may keep or change
    them.
    """
    x = jnp.arange(5.0)
    print(sine(x))
    assert np.allclose(sine(x), np.sin(np.arange(5.0)), rtol=1e-6)


@chapter.example()
def under_jit() -> None:
    """Under jit."""
    x = jnp.arange(5.0)
    print(jax.jit(sine)(x))
    assert np.array_equal(jax.jit(sine)(x), sine(x))


@chapter.example()
def under_vmap() -> None:
    """Under vmap.

    Nothing has to be said for it: the batch goes lane by lane, in one native loop. A host function
    that can take the whole batch in one call says so with `vmap_method="broadcast_all"`.
    """
    x = jnp.arange(5.0)
    print(jax.vmap(sine)(x))
    assert np.array_equal(jax.vmap(sine)(x), sine(x))


@chapter.example()
def under_scan() -> None:
    """In a scan.

    The loop is one compiled program; each of its steps calls the host.
    """

    def step(carry: None, x: jax.Array) -> tuple[None, jax.Array]:
        return carry, sine(x)

    x = jnp.arange(5.0)
    _, results = jax.lax.scan(step, None, x)
    print(results)
    assert np.array_equal(results, sine(x))


@chapter.example(
    prints="ValueError: Pure callbacks do not support JVP.*custom_jvp.*"
)
def under_grad() -> None:
    """grad asks for a rule.

    Nobody but you knows the derivative of a host function. A later chapter, on the
    Bessel function, shows how to give it.
    """
    try:
        jax.grad(sine)(1.0)
    except ValueError as error:
        print("ValueError:", error)


@chapter.example("announce", prints="the callback runs")
def result_used() -> None:
    """A result that is used..."""

    @jax.jit
    def f1() -> jax.Array:
        return callbax.pure_callback(
            announce, jax.ShapeDtypeStruct((), np.int32)
        )

    f1().block_until_ready()


@chapter.example(prints="")
def result_unused() -> None:
    """...and one that is not.

    Nothing depends on the call, so the compiler drops it: the host function never runs, and there
    is no output. That is just what purity allows. What must happen belongs in an `io_callback`.
    """

    @jax.jit
    def f2() -> float:
        callbax.pure_callback(announce, jax.ShapeDtypeStruct((), np.int32))
        return 1.0

    assert f2() == 1.0
