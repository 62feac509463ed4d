"""Functions that work on the GPU's memory, on XLA's stream, beside XLA's own product."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from common import best_seconds, check, figure

import callbax as cb

SIZE = 512
STRUCT = jax.ShapeDtypeStruct((SIZE, SIZE), np.float32)


def product(a, b):
    return a @ b


a = jax.random.normal(jax.random.key(0), (SIZE, SIZE))
own = jax.jit(lambda a: jnp.dot(a, a, precision="highest") * 2)
for arrays in ("torch", "cupy"):
    if importlib.util.find_spec(arrays) is None:
        figure(f"{arrays}", "not installed")
        continue
    with check(f"a product by {arrays}"):
        callee = cb.external(product, result=STRUCT, arrays=arrays, device=True)
        program = jax.jit(lambda a, callee=callee: callee(a, a) * 2)
        np.testing.assert_allclose(program(a), own(a), rtol=1e-2, atol=1e-2)
        taken = best_seconds(program, a, repetitions=50) - best_seconds(own, a, repetitions=50)
        figure(f"above XLA's own product, {arrays}, us", taken * 1e6)
