"""debug.callback: looking on.

It returns nothing and assumes nothing. It takes part in every transformation and changes none, so
that what it shows is what JAX really executes: what is dropped is not shown, what is repeated is
shown again. `debug.print` is this callback with a format string.
"""

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)


def log_value(x: np.ndarray) -> None:
    print("log:", x)


@jax.jit
def logged_square(x: jax.Array) -> jax.Array:
    callbax.debug.callback(log_value, x)
    return x**2


@chapter.example("log_value", "logged_square", prints="log: 3.0")
def under_jit() -> None:
    """Under jit."""
    assert logged_square(3.0) == 9


@chapter.example(prints=r"(log: \d\.0\s*){5}")
def under_vmap() -> None:
    """Under vmap.

    Once for each lane.
    """
    squares = jax.vmap(logged_square)(jnp.arange(5.0))
    assert np.array_equal(squares, [0, 1, 4, 9, 16])


@chapter.example(prints="log: 3.0")
def under_grad() -> None:
    """Under grad.

    Unlike the other flavours it lets derivatives pass. It is called once, with the value itself.
    """
    assert jax.grad(logged_square)(3.0) == 6
