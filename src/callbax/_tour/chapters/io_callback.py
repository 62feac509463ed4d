"""io_callback: functions with side effects.

Reading a sensor, writing to a database, drawing from a generator: the call happens exactly as often
as the program says, even if nobody uses its result. The example is a random generator that lives on
the host, whose state changes with every draw. (A toy: `jax.random` is the way to random numbers.)
"""

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)

generator = np.random.default_rng(0)


def draw_like(x: np.ndarray) -> np.ndarray:
    print(f"drawing {x.dtype}{list(x.shape)}")
    return generator.uniform(size=x.shape).astype(x.dtype)


@jax.jit
def random_like(x: jax.Array) -> jax.Array:
    return callbax.io_callback(draw_like, x, x)


@jax.jit
def random_like_ordered(x: jax.Array) -> jax.Array:
    return callbax.io_callback(draw_like, x, x, ordered=True)


@chapter.example(
    "generator",
    "draw_like",
    "random_like",
    prints=r"(drawing float\d+\[5\].*){2}",
)
def under_jit() -> None:
    """A generator on the host.

    Two equal calls give different numbers: each of them runs.
    """
    x = jnp.zeros(5)
    first = random_like(x)
    print(first)
    second = random_like(x)
    print(second)
    assert not np.array_equal(first, second)


@chapter.example(prints=r"(drawing float\d+\[\]\n){5}.*")
def under_vmap() -> None:
    """Under vmap.

    One call for each lane. In which order is left open, so do not rely on it.
    """
    x = jnp.zeros(5)
    numbers = jax.vmap(random_like)(x)
    print(numbers)
    assert len(set(numbers.tolist())) == 5


@chapter.example(
    "random_like_ordered",
    prints="ValueError: Cannot `vmap` ordered IO callback.*",
)
def ordered_under_vmap() -> None:
    """ordered=True keeps the program's order, so vmap refuses it.

    Lanes have no order that could be kept.
    """
    try:
        jax.vmap(random_like_ordered)(jnp.zeros(5))
    except ValueError as error:
        print("ValueError:", error)


@chapter.example(prints=r"(drawing float\d+\[\]\n){5}.*")
def ordered_in_scan() -> None:
    """In a scan, ordered.

    Steps do have an order. To see that it is kept, the host's generator is started anew, and a copy
    of it draws five numbers on its own: they are the same ones.
    """

    def step(carry: None, x: jax.Array) -> tuple[None, jax.Array]:
        return carry, random_like_ordered(x)

    generator.bit_generator.state = np.random.default_rng(
        7
    ).bit_generator.state
    _, numbers = jax.lax.scan(step, None, jnp.zeros(5))
    print(numbers)
    assert np.allclose(
        numbers, np.random.default_rng(7).uniform(size=5), rtol=1e-6
    )


@chapter.example(prints="ValueError: IO callbacks do not support JVP.*")
def differentiated() -> None:
    """grad, where a differentiated value reaches the callback.

    There is no derivative to go on with.
    """
    try:
        jax.grad(lambda x: random_like(x).sum())(jnp.zeros(5))
    except ValueError as error:
        print("ValueError:", error)


@chapter.example(prints="hello\n1.0")
def not_differentiated() -> None:
    """grad, where none does.

    The callback runs, though nothing uses it: it is not pure, so it is not dropped.
    """

    @jax.jit
    def identity(x: jax.Array) -> jax.Array:
        callbax.io_callback(lambda: print("hello"), None)
        return x

    gradient = jax.grad(identity)(1.0)
    callbax.effects_barrier()
    print(gradient)
    assert gradient == 1.0
