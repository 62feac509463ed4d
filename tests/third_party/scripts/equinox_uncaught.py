"""An error that ends the script."""

import equinox as eqx
import jax.numpy as jnp

program = eqx.filter_jit(lambda x: eqx.error_if(x, x < 0, "x must not be negative"))
print("before")
program(jnp.array(-1.0))
print("after")
