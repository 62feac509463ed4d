"""Under any library: JAX's own callbacks on callbax's runtime.

Most callbacks are not yours: libraries print, log and show progress by them. `callbax.install()`
gives JAX's own functions callbax's runtime, without a change to the libraries, and `python -m
callbax run script.py` does so for a whole program.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)


def of_a_library(
    host: Callable[..., np.ndarray],
) -> Callable[..., jax.Array]:
    """It has a reference to JAX's function since long ago."""
    return partial(
        jax.pure_callback, host, jax.ShapeDtypeStruct((), np.float32)
    )


def show_type(x: np.ndarray) -> np.ndarray:
    print(f"called with {type(x).__module__}.{type(x).__name__}")
    return np.sqrt(x)


@chapter.example("of_a_library", "show_type", prints=".*numpy.ndarray")
def within_a_block() -> None:
    """For the programs of a block.

    What the function gets tells who calls it: JAX gives its own arrays, callbax NumPy's.
    """
    square_root = of_a_library(show_type)
    with jax.default_device(jax.devices("cpu")[0]):
        jax.jit(square_root)(jnp.float32(4)).block_until_ready()
        with callbax.installed():
            jax.jit(square_root)(jnp.float32(9)).block_until_ready()
