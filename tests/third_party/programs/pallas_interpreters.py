"""Pallas: kernels that are interpreted on the CPU, with prints."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu


def _call(kernel, x, *, interpret=True, grid=(2,), block=(4,)):
    spec = pl.BlockSpec(block, lambda i: (i,))
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=grid,
        in_specs=[spec],
        out_specs=spec,
        interpret=interpret,
    )(x)


def _printing(x_ref, o_ref):
    pl.debug_print("program {} has {}", pl.program_id(0), x_ref[0])
    o_ref[...] = x_ref[...] * 2


def prints_of_a_grid():
    return _call(_printing, jnp.arange(8.0))


def prints_of_a_grid_under_jit():
    return jax.jit(lambda x: _call(_printing, x) + 1)(jnp.arange(8.0))


def prints_in_a_scan():
    def step(x, _):
        return _call(_printing, x), x[0]

    return jax.jit(lambda x: jax.lax.scan(step, x, None, length=3))(jnp.arange(8.0))


def prints_under_vmap():
    return jax.jit(jax.vmap(lambda x: _call(_printing, x)))(jnp.arange(16.0).reshape(2, 8))


def the_interpreter_of_tpus():
    """It keeps the TPU's memory on the host, and calls the host for each load and store."""
    x = jnp.arange(2 * 8 * 128, dtype=jnp.float32).reshape(16, 128)

    def kernel(x_ref, o_ref):
        o_ref[...] = x_ref[...] * 2 + 1

    spec = pl.BlockSpec((8, 128), lambda i: (i, 0))
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=(2,),
        in_specs=[spec],
        out_specs=spec,
        interpret=pltpu.InterpretParams(),
    )(x).sum(axis=1)


def a_copy_by_dma_on_the_interpreter_of_tpus():
    x = jnp.arange(8 * 128, dtype=jnp.float32).reshape(8, 128)

    def kernel(x_ref, o_ref, semaphore):
        copy = pltpu.make_async_copy(x_ref, o_ref, semaphore)
        copy.start()
        copy.wait()

    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    program = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        in_specs=[anywhere],
        out_specs=anywhere,
        scratch_shapes=[pltpu.SemaphoreType.DMA],
        interpret=pltpu.InterpretParams(),
    )
    return jax.jit(program)(x).sum(axis=1)


def a_read_out_of_bounds_on_the_interpreter_of_tpus():
    x = jnp.ones((8, 128), jnp.float32)

    def kernel(x_ref, o_ref):
        o_ref[...] = x_ref[pl.ds(jnp.int32(4) + pl.program_id(0), 8), :]

    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=(1,),
        interpret=pltpu.InterpretParams(),
    )(x)
