"""Debuggers: in a callback, in the traced code around it, and after an exception.

    python examples/recipes/debugger.py

The commands are scripted here, so that the recipe runs by itself. From a terminal write Python's
`breakpoint()` and `cb.debug.breakpoint()` in their places.
"""

import io
import pdb
import sys

import jax
import jax.numpy as jnp
import numpy as np

import callbax as cb


class Typed(io.StringIO):
    """Commands, shown as they are read."""

    def readline(self, *size):
        line = super().readline(*size)
        sys.stdout.write(line)
        return line


def scripted_pdb(commands):
    return pdb.Pdb(stdin=Typed(commands), stdout=sys.stdout, nosigint=True, readrc=False)


def median(x):
    middle = len(x) // 2
    if x.max() > 2:  # stop for such arguments only
        scripted_pdb("p x\np middle\ncontinue\n").set_trace()
    return np.sort(x)[middle]


@jax.jit
def centred(x):
    centre = cb.pure_callback(median, jax.ShapeDtypeStruct((), x.dtype), x)
    cb.debug.breakpoint(stdin=Typed("p centre\np x - centre\ncontinue\n"))
    return x / centre


print("pdb in the callback, and JAX's debugger after it")
centred(jnp.array([3.0, 1.0, 2.0])).block_until_ready()
cb.effects_barrier()


def price(number):
    prices = {1: 9.99, 2: 24.5}
    return np.float32(prices[int(number)])


print("\npdb after an exception")
try:
    with cb.reraise():
        struct = jax.ShapeDtypeStruct((), np.float32)
        jax.jit(lambda n: cb.pure_callback(price, struct, n))(3).block_until_ready()
except KeyError as error:
    debugger = scripted_pdb("p prices\nquit\n")
    debugger.reset()
    debugger.interaction(None, error.__traceback__)  # pdb.post_mortem(error.__traceback__)
