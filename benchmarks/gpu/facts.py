"""The machine, the versions, and which runtime runs."""

import ctypes

import jax
import jax.numpy as jnp
from common import check, figure

import callbax as cb
from callbax import _native
from callbax._runtime import platforms

driver = ctypes.CDLL("libcuda.so.1")
version = ctypes.c_int()
driver.cuDriverGetVersion(ctypes.byref(version))
figure("device", jax.devices()[0].device_kind)
figure("version of CUDA that the driver has", version.value)
figure("jax", jax.__version__)
figure("callbax", cb.__version__)
runtime = platforms.choice(("cuda",))
figure("runtime", f"{runtime.name}: {runtime.reason}")
figure("the driver's problem", _native.cuda_problem() or "none")
x = jnp.arange(4.0)
with check("a call"):
    assert (jax.jit(lambda x: cb.pure_callback(lambda v: v * 2, x, x))(x) == x * 2).all()
figure("page-locked memory", str(_native.cuda_statistics()))
