"""A solve that fails while its meter is shown."""

import diffrax
import jax.numpy as jnp

diffrax.diffeqsolve(
    diffrax.ODETerm(lambda t, y, args: -y),
    diffrax.Tsit5(),
    t0=0.0,
    t1=1.0,
    dt0=0.01,
    y0=jnp.array(1.0),
    max_steps=20,
    progress_meter=diffrax.TextProgressMeter(),
)
