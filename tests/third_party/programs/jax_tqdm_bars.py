"""jax-tqdm: bars of loops, of several loops at once, under jit and vmap."""

import jax
import jax.numpy as jnp
from jax_tqdm import PBar, loop_tqdm, scan_tqdm


def scan_at_each_step():
    @scan_tqdm(12, print_rate=1, tqdm_type="std")
    def step(carry, i):
        return carry + i, carry

    return jax.lax.scan(step, 0, jnp.arange(12))


def scan_at_some_steps_under_jit():
    @jax.jit
    def program(x):
        @scan_tqdm(50, print_rate=7, tqdm_type="std", desc="some steps", ncols=70)
        def step(carry, i_and_x):
            i, x = i_and_x
            return carry + i * x, None

        return jax.lax.scan(step, 0.0, (jnp.arange(50), x))[0]

    return program(jnp.linspace(0.0, 1.0, 50))


def a_loop_that_runs_twice():
    @loop_tqdm(9, print_rate=2, tqdm_type="std")
    def body(i, value):
        return value * 1.5 + i

    program = jax.jit(lambda x: jax.lax.fori_loop(0, 9, body, x))
    return program(1.0), program(2.0)


def bars_of_their_own_under_vmap():
    @scan_tqdm(6, print_rate=1, tqdm_type="std", leave=True)
    def step(carry, i):
        return carry + i, carry

    def run(bar, start):
        return jax.lax.scan(step, PBar(id=bar, carry=start), jnp.arange(6))[0].carry

    return jax.lax.map(lambda args: run(*args), (jnp.arange(3), jnp.arange(3.0)))


def vmapped():
    @scan_tqdm(6, print_rate=1, tqdm_type="std")
    def step(carry, i):
        return carry + i, carry

    def run(start):
        return jax.lax.scan(step, start, jnp.arange(6))[0]

    return jax.jit(jax.vmap(run))(jnp.arange(3.0))


def differentiated():
    def loss(x):
        @scan_tqdm(5, print_rate=1, tqdm_type="std")
        def step(carry, i):
            return carry * x, None

        return jax.lax.scan(step, 1.0, jnp.arange(5))[0]

    return jax.jit(jax.value_and_grad(loss))(1.5)
