"""Every n-th step, under vmap: one call for the whole batch, or one for each lane.

python examples/recipes/every_n_steps.py
"""

import jax
import jax.numpy as jnp

import callbax as cb
from callbax import tools


def draw(step, places):
    """All lanes in one call; a step that they share comes with one element."""
    columns = [" "] * 41
    for lane, place in enumerate(places):
        columns[int(20 + 10 * place)] = "ABC"[lane]
    print(f"step {step[0]:2}  |{''.join(columns)}|")


def tell(place):
    print(f"a lane is at {place:+.2f}")


@jax.jit
@jax.vmap
def swing(damping):
    """A pendulum for each damping."""

    def step(state, i):
        place, speed = state
        tools.every(5, i, draw, i, place, vmap_method="expand_dims")
        tools.every(30, i + 1, tell, place)  # the same step for each lane: a call each
        speed = speed - 0.2 * (jnp.sin(place) + damping * speed)
        return (place + 0.2 * speed, speed), None

    return jax.lax.scan(step, (2.0, 0.0), jnp.arange(40))[0]


swing(jnp.array([0.0, 0.3, 1.0]))
cb.effects_barrier()
