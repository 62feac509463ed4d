"""What a call costs beside JAX's, in one process; microseconds."""

import jax
import jax.numpy as jnp
import numpy as np
from common import LIBRARIES, best_seconds, figure

import callbax as cb

CALLS = 200


def loop(n, body):
    return jax.jit(lambda x: jax.lax.fori_loop(0, n, lambda _, c: body(c), x))


def effect(call):
    """A program with that effect and a result."""
    return jax.jit(lambda x: (call(x), x + 1)[1])


def nothing(_):
    return None


for size in (4, 1 << 14, 1 << 20):
    x = jnp.zeros(size // 4, jnp.float32)
    steps = 300 if size < 1 << 20 else 60
    without = best_seconds(loop(steps, lambda c: c * 1.000001), x)
    for name, library in LIBRARIES.items():
        program = loop(steps, lambda c, library=library: library.pure_callback(np.asarray, c, c))
        taken = best_seconds(program, x) - without
        figure(f"a step of a loop, {size} bytes, {name}", taken / steps * 1e6)
x = jnp.zeros(1)
lanes = jnp.zeros(1000)
for name, library in LIBRARIES.items():
    program = jax.jit(
        jax.vmap(
            lambda s, library=library: library.pure_callback(
                np.asarray, s, s, vmap_method="sequential"
            )
        )
    )
    figure(f"a lane of 1,000, {name}", best_seconds(program, lanes) / 1000 * 1e6)
plain = jax.jit(lambda x: x + 1)
figure("a call of a jitted function", best_seconds(plain, x, repetitions=CALLS) * 1e6)
for name, library in LIBRARIES.items():
    programs = {
        "pure": jax.jit(lambda x, library=library: library.pure_callback(np.asarray, x, x)),
        "debug": effect(lambda x, library=library: library.debug.callback(nothing, x)),
        "io": effect(lambda x, library=library: library.io_callback(nothing, None, x)),
        "ordered io": effect(
            lambda x, library=library: library.io_callback(nothing, None, x, ordered=True)
        ),
    }
    for kind, program in programs.items():
        taken = best_seconds(program, x, repetitions=CALLS)
        library.effects_barrier()
        figure(f"a call of a jitted function with a callback, {kind}, {name}", taken * 1e6)
sine = cb.ufunc(np.sin)
taken = best_seconds(loop(300, sine), x) - best_seconds(loop(300, lambda c: c * 1.000001), x)
figure("a step of a loop, 4 bytes, ufunc", taken / 300 * 1e6)
