"""How fast large arrays travel, beside the driver's own copies; GB/s."""

import ctypes

import jax
import jax.numpy as jnp
import numpy as np
from common import LIBRARIES, best_seconds, figure

import callbax as cb

MIB = 1 << 20
SIZES = (1, 16, 256)  # MiB
SCALAR = jax.ShapeDtypeStruct((), np.float32)


def drivers_own(size):
    """Rates of the driver's copies between an array of JAX's and page-locked or other memory."""
    cuda = ctypes.CDLL("libcuda.so.1")
    array = jax.block_until_ready(jnp.zeros(size // 4, jnp.float32))
    device, bytes_ = ctypes.c_uint64(array.unsafe_buffer_pointer()), ctypes.c_size_t(size)
    context, locked = ctypes.c_void_p(), ctypes.c_void_p()
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert cuda.cuCtxPushCurrent_v2(context) == 0
    assert cuda.cuMemHostAlloc(ctypes.byref(locked), bytes_, 1) == 0
    ordinary = np.ones(size, np.uint8)
    pageable = ctypes.c_void_p(ordinary.ctypes.data)
    copies = {
        "to page-locked memory": lambda: cuda.cuMemcpyDtoH_v2(locked, device, bytes_),
        "from page-locked memory": lambda: cuda.cuMemcpyHtoD_v2(device, locked, bytes_),
        "to other memory": lambda: cuda.cuMemcpyDtoH_v2(pageable, device, bytes_),
        "from other memory": lambda: cuda.cuMemcpyHtoD_v2(device, pageable, bytes_),
    }
    for name, copy in copies.items():
        figure(f"the driver, {size // MIB} MiB, {name}", size / best_seconds(copy) / 1e9)


def first(v):
    return np.float32(0)


def ways_in():
    found = {
        name: lambda x, library=library: library.pure_callback(first, SCALAR, x)
        for name, library in LIBRARIES.items()
    }
    return {**found, "callbax, zero_copy": cb.external(first, result=SCALAR, zero_copy=True)}


def ways_out(constant):
    found = {
        name: lambda s, library=library: library.pure_callback(lambda _: constant, constant, s)
        for name, library in LIBRARIES.items()
    }
    in_place = cb.external(lambda s, out: None, result=constant, out=True)
    return {**found, "callbax, out": in_place}


drivers_own(SIZES[-1] * MIB)
for mib in SIZES:
    size = mib * MIB
    x = jnp.zeros(size // 4, jnp.float32)
    for name, way in ways_in().items():
        figure(f"in, {mib} MiB, {name}", size / best_seconds(jax.jit(way), x) / 1e9)
    for name, way in ways_out(np.zeros(x.shape, np.float32)).items():
        taken = best_seconds(jax.jit(way), jnp.float32(0))
        figure(f"out, {mib} MiB, {name}", size / taken / 1e9)
