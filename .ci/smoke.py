"""Tries an installed callbax: each way to call host code once, and what it needs of its own files.

It uses nothing but what callbax requires, and SciPy if that is there.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import pathlib
import sysconfig

import jax
import jax.numpy as jnp
import numpy as np

import callbax

SCALAR = jax.ShapeDtypeStruct((), np.float32)


def is_as_installed() -> None:
    packages = {pathlib.Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    assert pathlib.Path(callbax.__file__).parent.parent in packages, callbax.__file__
    assert callbax.__version__ == importlib.metadata.version("callbax")
    assert pathlib.Path(callbax.get_include(), "callbax", "kernel.h").exists()
    assert pathlib.Path(callbax.__file__).with_name("py.typed").exists()


def calls_python() -> None:
    seen: list[float] = []

    def double(x: np.ndarray) -> np.ndarray:
        return 2 * x

    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        x = callbax.pure_callback(double, SCALAR, x)
        x = callbax.io_callback(double, SCALAR, x, ordered=True)
        callbax.debug.callback(lambda value: seen.append(float(value)), x)
        return x

    assert program(jnp.float32(3)) == 12
    steps = jax.lax.scan(lambda x, _: (program(x), x), jnp.float32(1), length=4)[1]
    callbax.effects_barrier()
    assert steps.tolist() == [1, 4, 16, 64] and seen == [12, 4, 16, 64, 256]


def gives_exceptions_back() -> None:
    def fails(x: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("in a callback")

    try:
        with callbax.reraise():
            jax.jit(lambda x: callbax.pure_callback(fails, SCALAR, x))(1.0).block_until_ready()
    except ZeroDivisionError:
        return
    raise AssertionError("the exception of a callback has been lost")


def differentiates_and_batches() -> None:
    sine = callbax.external(np.sin, result="broadcast")
    sine.defjvps(lambda tangent, result, x: tangent * jnp.cos(x))
    x = jnp.linspace(0, 1, 5)
    np.testing.assert_allclose(jax.vmap(jax.grad(sine))(x), np.cos(x), rtol=1e-6)


def calls_compiled_code() -> None:
    x = jnp.linspace(0, 1, 100_000)
    np.testing.assert_allclose(jax.jit(callbax.ufunc(np.cbrt))(x), np.cbrt(x), rtol=1e-6)
    library = ctypes.CDLL(None)
    library.hypot.restype, library.hypot.argtypes = ctypes.c_double, [ctypes.c_double] * 2
    assert jax.jit(callbax.native(library.hypot))(3.0, 4.0) == 5
    if importlib.util.find_spec("scipy"):
        assert abs(jax.grad(callbax.scipy.special.j0)(1.0) + 0.44005059) < 1e-6


def runs_jax_s_callbacks() -> None:
    with callbax.installed(), callbax.statistics() as statistics:
        jax.jit(lambda x: jax.pure_callback(np.sqrt, SCALAR, x))(jnp.float32(4)).block_until_ready()
    assert [callback.calls for callback in statistics] == [1]


CHECKS = (
    is_as_installed,
    calls_python,
    gives_exceptions_back,
    differentiates_and_batches,
    calls_compiled_code,
    runs_jax_s_callbacks,
)

if __name__ == "__main__":
    for check in CHECKS:
        check()
        print("ok:", check.__name__.replace("_", " "))
    print(f"callbax {callbax.__version__}, JAX {jax.__version__}, NumPy {np.__version__}")
