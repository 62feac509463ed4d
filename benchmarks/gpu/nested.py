"""JAX inside callbacks: XLA holds a lock on the GPU meanwhile, which some compilations want alone."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
from common import check, figure

import callbax as cb

X = jnp.ones(4)
WEIGHTS = jnp.ones((256, 256))
COMMITTED = jax.device_put(WEIGHTS, jax.devices()[0])


def with_numpy(v):
    return np.asarray(v) @ np.ones((4, 4), np.float32)


def compiles(_):
    product = jax.jit(lambda a: a @ a.T)(jnp.ones((513, 511)))
    assert product.devices() != {jax.devices()[0]}, "it ran on the GPU"
    return np.asarray(product)[0, :4]


def reads_arrays_of_the_gpu(v):
    return np.asarray(WEIGHTS)[0, :4] + v


def computes_with_committed_arrays(v):
    return np.asarray(COMMITTED[0, :4] + v)


FUNCTIONS = (with_numpy, compiles, reads_arrays_of_the_gpu, computes_with_committed_arrays)
for function in FUNCTIONS:
    with check(f"a function that {function.__name__.replace('_', ' ')}"):
        program = jax.jit(lambda x, f=function: cb.pure_callback(f, x, x))
        assert program(X).shape == (4,)

compiled = threading.Event()
waited = []


def wait_for_compilation(v):
    waited.append(compiled.wait(5))
    return v


def compile_elsewhere():
    jax.block_until_ready(jax.jit(lambda a: a @ a)(jnp.ones((777, 777))))
    compiled.set()


with check("a program on the GPU is compiled elsewhere, in the end"):
    timer = threading.Timer(0.3, compile_elsewhere)
    timer.start()
    jax.block_until_ready(jax.jit(lambda x: cb.pure_callback(wait_for_compilation, x, x))(X))
    assert compiled.wait(20)
    figure("it is compiled while a callback runs", str(waited[0]))
