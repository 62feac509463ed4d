"""tesseract-jax: a Tesseract of this process inside JAX programs. It calls JAX's lowering directly."""

from pathlib import Path

import jax
import jax.numpy as jnp
from tesseract_core import Tesseract
from tesseract_jax import apply_tesseract


def _product(x):
    api = Path(__file__).parent / "tesseract" / "tesseract_api.py"
    return apply_tesseract(Tesseract.from_tesseract_api(api), {"x": x, "scale": jnp.float32(3)})[
        "y"
    ]


def under_jit():
    return jax.jit(_product)(jnp.arange(3.0))


def in_a_scan():
    def step(x, _):
        return _product(x) * 0.1, x

    return jax.jit(lambda x: jax.lax.scan(step, x, None, length=4))(jnp.arange(3.0))


def under_grad():
    return jax.jit(jax.value_and_grad(lambda x: _product(x).sum()))(jnp.arange(3.0))


def under_jvp():
    return jax.jit(lambda x, t: jax.jvp(_product, (x,), (t,)))(jnp.arange(3.0), jnp.ones(3))


def under_vmap():
    api = Path(__file__).parent / "tesseract" / "tesseract_api.py"
    tesseract = Tesseract.from_tesseract_api(api)

    def product(x):
        inputs = {"x": x, "scale": jnp.float32(2)}
        return apply_tesseract(tesseract, inputs, vmap_method="sequential")["y"]

    return jax.jit(jax.vmap(product))(jnp.arange(6.0).reshape(2, 3))


def that_fails():
    return jax.jit(_product)(-jnp.ones(2))
