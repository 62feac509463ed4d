"""A script with a bar, which waits for nothing at its end."""

import jax
import jax.numpy as jnp
from jax_tqdm import scan_tqdm


@scan_tqdm(100, print_rate=1, tqdm_type="std")
def step(carry, i):
    return carry + i, None


total, _ = jax.jit(lambda: jax.lax.scan(step, 0, jnp.arange(100)))()
print("total", total)
