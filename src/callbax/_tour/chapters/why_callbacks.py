"""Why callbacks?

JAX runs your Python function once, to trace it, and compiles what it has seen. From then on the
compiled program runs and your Python code does not. A callback is the way back: at that point of
the compiled program, the runtime calls a Python function with the values that it has just computed.
"""

import jax

import callbax
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)


@chapter.example(prints="inside: .*Trace.*\nresult: 6")
def traced_value() -> None:
    """A plain print shows the traced value.

    `print` is Python, so it runs while JAX traces. There is no number to show yet, only a stand-in
    that knows its shape and dtype, and later calls print nothing at all.
    """

    @jax.jit
    def double_of_next(x: jax.Array) -> jax.Array:
        y = x + 1
        print("inside:", y)
        return y * 2

    print("result:", double_of_next(2))


@chapter.example(prints="inside: 3\nresult: 6\ninside: 11\nresult: 22")
def runtime_value() -> None:
    """debug.print shows the value at run time.

    It puts a callback into the program, which prints each time the program runs.
    """

    @jax.jit
    def double_of_next(x: jax.Array) -> jax.Array:
        y = x + 1
        callbax.debug.print("inside: {}", y, ordered=True)
        return y * 2

    for x in (2, 10):
        result = double_of_next(x)
        callbax.effects_barrier()  # the print has happened
        print("result:", result)
