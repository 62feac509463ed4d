"""An error that is caught, again and again, and one whose result nobody asks for."""

import equinox as eqx
import jax
import jax.numpy as jnp


@eqx.filter_jit
def program(x):
    return eqx.error_if(x, x < 0, "x must not be negative")


for _ in range(3):
    try:
        program(jnp.array(-1.0))
    except RuntimeError as error:
        print(type(error).__qualname__, str(error).count("x must not be negative"))
print(jax.device_get(program(jnp.array(1.0))))
