"""blackjax: its progress bar, which taps scans through jaxtap."""

import tempfile
from pathlib import Path

import blackjax
import jax
import jax.numpy as jnp
import jaxtap


def _log_density(x):
    return -0.5 * jnp.sum(x**2)


def _with_bar(program):
    """What the program returns, and how far the bar had come: a file says it, at each step."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "progress"
        with blackjax.progress_bar(print_rate=1, output_file=str(file)):
            return _finished(program()), file.read_text()


def _finished(values):
    jax.block_until_ready(values)
    jax.effects_barrier()
    return values


def _chain(key, steps=30):
    kernel = blackjax.hmc(_log_density, 0.3, jnp.ones(2), 5)

    def step(state, key):
        state, _ = kernel.step(key, state)
        return state, state.position

    return jax.lax.scan(step, kernel.init(jnp.ones(2)), jax.random.split(key, steps))[1]


def a_chain():
    return _with_bar(lambda: _chain(jax.random.key(0)))


def vectorised_chains():
    keys = jax.random.split(jax.random.key(0), 3)
    return _with_bar(lambda: jax.jit(jax.vmap(_chain))(keys))


def adaptation():
    warmup = blackjax.window_adaptation(blackjax.hmc, _log_density, num_integration_steps=3)

    def run():
        (state, parameters), _ = warmup.run(jax.random.key(0), jnp.ones(2), 30)
        return state.position, parameters["step_size"]

    return _with_bar(run)


def each_step_recorded():
    events = []
    with jaxtap.record(on_step=lambda event: events.append((event.step, event.total))):
        positions = _finished(_chain(jax.random.key(0), steps=6))
    return positions, str(sorted(events))


def an_observer_that_raises():
    def observe(event):
        raise ValueError("the observer failed")

    with jaxtap.record(on_step=observe):
        return _finished(_chain(jax.random.key(0), steps=3))
