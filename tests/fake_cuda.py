"""The handler for GPUs under programs for CPU, over a stand-in for NVIDIA's driver (tests/cuda/*.cc).

`CALLBAX_RUNTIME=fake-cuda` in the environment has all programs of the tests called so.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

SETTING = "fake-cuda"
IS_ON = os.environ.get("CALLBAX_RUNTIME") == SETTING

# Of the driver's functions, those that a call may fail at.
FUNCTIONS = (
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuStreamIsCapturing",
    "cuStreamWaitEvent",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
)
ILLEGAL_ADDRESS = 700

# By kind of call, those on CPU (callbax/_start.py).
_TARGETS = {
    "callback": {
        "callbax_call",
        "callbax_call_per_shard",
        "xla_python_gpu_callback",
        "xla_ffi_partitioned_python_gpu_callback",
    },
    "loop": {"callbax_loop"},
}
_SITES = {"callback": "callbax_call_site", "loop": "callbax_loop_site"}


@functools.cache
def compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("c++")


def _build() -> str:
    """Compiles the stand-in, once for the processes of a run; the path of the library."""
    if not os.environ.get("CALLBAX_LIBCUDA"):
        if compiler() is None:
            raise RuntimeError("there is no C++ compiler")
        sources = sorted(map(str, Path(__file__).with_name("cuda").glob("*.cc")))
        folder = tempfile.mkdtemp(prefix="callbax-fake-cuda-")
        atexit.register(_remove, folder, os.getpid())
        library = os.path.join(folder, "libcuda.so")
        flags = ["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
        include = ["-isystem", jax.ffi.include_dir()]
        command = [compiler(), *flags, *include, *sources, "-o", library, "-pthread"]
        subprocess.run(command, check=True)
        os.environ["CALLBAX_LIBCUDA"] = library  # callbax reads it at its first call
    return os.environ["CALLBAX_LIBCUDA"]


def _remove(folder: str, builder: int) -> None:
    """At exit, in the process that has built it: forked children use it no longer than that."""
    if os.getpid() == builder:
        shutil.rmtree(folder)


@functools.cache
def library() -> ctypes.CDLL:
    """The functions that set and read the stand-in (`fake_driver.cc`)."""
    loaded = ctypes.CDLL(_build())
    loaded.fake_fail.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int]
    loaded.fake_calls.argtypes = [ctypes.c_char_p]
    loaded.fake_wrap.argtypes, loaded.fake_wrap.restype = [ctypes.c_void_p], ctypes.c_void_p
    loaded.fake_scale.argtypes = [
        *(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_long, ctypes.c_float, ctypes.c_size_t)
    ]
    loaded.fake_allocate.argtypes, loaded.fake_allocate.restype = [ctypes.c_size_t], ctypes.c_size_t
    loaded.fake_stream.restype = ctypes.c_size_t
    for name in ("fake_calls", "fake_pageable_copies", "fake_events"):
        getattr(loaded, name).restype = ctypes.c_long
    for name in ("fake_locked_bytes", "fake_most_locked_bytes"):
        getattr(loaded, name).restype = ctypes.c_size_t
    return loaded


def address(capsule: object) -> int:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return pointer(capsule, None)


@functools.cache
def handlers(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Callbax's own for GPUs, shown CPU programs' frames as a GPU's; and their state's type."""
    from callbax import _native

    found, state = getattr(_native, f"cuda_{kind}_handlers")()
    wrapper = ctypes.c_void_p(library().fake_wrap(address(found["execute"])))
    return {**found, "execute": jax.ffi.pycapsule(wrapper)}, state


def run_all_programs_so() -> None:
    """Before callbax is imported: its callbacks on CPU get these handlers.

    Programs in processes of their own do not.
    """
    library()
    os.environ["CALLBAX_RUNTIME"] = ""
    register, register_type = jax.ffi.register_ffi_target, jax.ffi.register_ffi_type

    def register_fake(name: str, given: Any, platform: str = "cpu", **kwargs: Any) -> None:
        for kind, targets in _TARGETS.items():
            if name in targets and platform == "cpu":
                given = handlers(kind)[0]
        register(name, given, platform=platform, **kwargs)

    def register_fake_type(name: str, given: Any, platform: str = "cpu") -> None:
        for kind, site in _SITES.items():
            if name == site and platform == "cpu":
                given = handlers(kind)[1]
        register_type(name, given, platform=platform)

    jax.ffi.register_ffi_target, jax.ffi.register_ffi_type = register_fake, register_fake_type
    try:
        import callbax  # noqa: F401 - registers its handlers
    finally:
        jax.ffi.register_ffi_target, jax.ffi.register_ffi_type = register, register_type


@functools.cache
def _register_beside() -> None:
    for kind in _SITES:
        jax.ffi.register_ffi_type(f"callbax_fake_cuda_{kind}", handlers(kind)[1], platform="cpu")
    for name, kind in _BESIDE.values():
        jax.ffi.register_ffi_target(name, handlers(kind)[0], platform="cpu")


# By what it stands for in callbax/_start.py.
_BESIDE = {
    "TARGET": ("callbax_call_on_fake_cuda", "callback"),
    # XLA knows it as one of a host callback; nobody has it on CPU.
    "PLACED_TARGET": ("xla_ffi_python_gpu_callback", "callback"),
    "LOOP_TARGET": ("callbax_loop_on_fake_cuda", "loop"),
}


@contextlib.contextmanager
def programs_so() -> Iterator[None]:
    """Programs that are compiled meanwhile are called so."""
    if IS_ON:
        yield
        return
    from callbax import _start

    library()
    _register_beside()
    before = {constant: getattr(_start, constant) for constant in _BESIDE}
    for constant, (name, _) in _BESIDE.items():
        setattr(_start, constant, name)
    try:
        yield
    finally:
        for constant, name in before.items():
            setattr(_start, constant, name)
