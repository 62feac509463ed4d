"""Facts about the installation, for `python -m callbax info` and for bug reports."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pathlib
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax import _native
from callbax._install import state
from callbax._jax import calls
from callbax._runtime import platforms
from callbax._tour.pages import Page

# Optional packages, and what each is imported as.
EXTRAS = {
    "rich": "rich",
    "tqdm": "tqdm",
    "flatbuffers": "flatbuffers",
    "torch": "torch",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "jax-tvm-ffi": "jax_tvm_ffi",
}


def versions() -> Iterator[tuple[str, str]]:
    yield "callbax", callbax.__version__
    for package in ("jax", "jaxlib", "numpy"):
        yield package, importlib.metadata.version(package)
    yield "Python", platform.python_version()


def is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(EXTRAS[package]) is not None
    except ImportError:  # an import hook that refuses it
        return False


def processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = re.search(r"model name\s*: (.+)", cpuinfo.read_text())
        if model:
            return model[1]
    return platform.processor() or platform.machine()


def run_information(page: Page) -> None:
    page.title("callbax on this machine")
    page.table(("package", "version"), [*versions(), ("XLA FFI", _ffi_version())], "Versions")
    page.table(
        ("package", "version"), [(name, _installed(name)) for name in EXTRAS], "Optional packages"
    )
    page.table(
        ("platform", "devices", "runtime", "because"), list(_platforms()), platform.platform()
    )
    devices = {device.platform: device for device in (jax.devices("cpu")[0], jax.devices()[0])}
    page.table(("", *devices), list(_what_works(list(devices.values()))), "What works")
    page.paragraph(
        "The portable runtime goes through JAX's own callbacks, at their cost, on every platform "
        "that has them."
    )
    page.paragraph(f"JAX's own callbacks: {_whose_callbacks()}")
    page.paragraph(f"Calls of programs with effects: {_how_effects_are_called()}")
    statistics = _native.statistics()
    page.table(("", "now"), [(k, str(v)) for k, v in statistics.items()], "Runtime")


def _ffi_version() -> str:
    """Of the interface that the installed jaxlib offers to the runtime."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    return ".".join(
        number[1]
        for part in ("MAJOR", "MINOR")
        if (number := re.search(rf"#define XLA_FFI_API_{part} (\d+)", header))
    )


def _whose_callbacks() -> str:
    """Whether they run on callbax's runtime here, and how they would."""
    arguments = state.arguments()
    if not platforms.runtime_of(["cpu"]).is_native:
        return "left to JAX, callbax.install() or not, for the runtime on CPU is portable."
    if arguments is None:
        return "JAX's way; callbax.install() or `python -m callbax run` puts them on the native runtime."
    return f"on the native runtime, by callbax.install(arguments={arguments!r})."


def _how_effects_are_called() -> str:
    """Whether a jitted call with io or debug callbacks goes through Python, and why."""
    if why := calls.trial():
        return f"by JAX's Python path, for this JAX is not as expected: {why}."
    return "by JAX's C++ path on one CPU device, by its Python path on several."


def _installed(package: str) -> str:
    return importlib.metadata.version(package) if is_installed(package) else "not installed"


def _platforms() -> Iterator[tuple[str, str, str, str]]:
    for name in ("cpu", "cuda", "rocm", "tpu"):
        runtime = platforms.choice([name])
        yield name, _devices(name), runtime.name, runtime.reason


def _devices(name: str) -> str:
    try:
        devices = jax.devices(name)
    except RuntimeError:
        return "none"
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    default = ", JAX's default" if devices[0] == jax.devices()[0] else ""
    return f"{len(devices)} ({kinds}){default}"


def _what_works(devices: Sequence[jax.Device]) -> Iterator[tuple[str, ...]]:
    """Each flavour, tried on the spot."""
    seen: list[float] = []
    scalar = jax.ShapeDtypeStruct((), np.float32)

    def keep(x: np.ndarray) -> np.ndarray:
        seen.append(float(x))
        return x

    def debug(x: jax.Array) -> jax.Array:
        callbax.debug.callback(keep, x)
        return x

    def try_on(device: jax.Device, program: Callable[[Any], Any]) -> str:
        seen.clear()
        with jax.default_device(device):
            result = jax.jit(program)(jnp.float32(2))
            callbax.effects_barrier()
        return "yes" if result == 2 and seen == [2] else "NO"

    flavours: dict[str, Callable[[Any], Any]] = {
        "pure_callback": lambda x: callbax.pure_callback(keep, scalar, x),
        "io_callback": lambda x: callbax.io_callback(keep, scalar, x),
        "io_callback, ordered": lambda x: callbax.io_callback(keep, scalar, x, ordered=True),
        "debug.callback, debug.print": debug,
    }
    for name, program in flavours.items():
        yield name, *(try_on(device, program) for device in devices)
