"""Errors: the host function's own exception, and where it happened.

XLA stops a program whose host function raises. JAX then raises an error of its own kind, with the
text of what went wrong. callbax keeps the exception itself.
"""

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)


class Unstable(Exception):
    """What a simulator of yours might raise."""


def simulate(x: np.ndarray) -> np.ndarray:
    if x > 2:
        raise Unstable(f"no convergence at {x}")
    return np.sqrt(x)


def simulated(x: jax.Array) -> jax.Array:
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return callbax.pure_callback(simulate, result, x)


@chapter.example(
    "Unstable",
    "simulate",
    "simulated",
    prints=".*Unstable: no convergence at 3.0.*",
)
def as_itself() -> None:
    """The exception itself.

    `callbax.reraise` raises what the host function raised, with its traceback; so `except` finds it
    by its class. The note says which lane of which array it was.
    """
    try:
        with callbax.reraise():
            jax.jit(jax.vmap(simulated))(
                jnp.arange(5.0)
            ).block_until_ready()
    except Unstable as error:
        print("Unstable:", error)
        print(*error.__notes__)


@chapter.example(prints="Incorrect output shape.*")
def wrong_result() -> None:
    """A result of another shape than was promised.

    The message says what was expected, what came, and from which function.
    """

    def wrong(x: np.ndarray) -> np.ndarray:
        return np.sqrt(x)[:2]

    x = jnp.arange(3.0)
    try:
        with callbax.reraise():
            callbax.pure_callback(wrong, x, x).block_until_ready()
    except callbax.CallbackResultError as error:
        print(error)
