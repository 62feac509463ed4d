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
    "cuStreamIsCapturing",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
)
ILLEGAL_ADDRESS = 700

# Of callbacks, on CPU (callbax/_start.py).
_TARGETS = {
    "callbax_call",
    "callbax_call_per_shard",
    "xla_ffi_python_gpu_callback",
    "xla_ffi_partitioned_python_gpu_callback",
}


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
    for name in ("fake_calls", "fake_pageable_copies", "fake_events"):
        getattr(loaded, name).restype = ctypes.c_long
    for name in ("fake_locked_bytes", "fake_most_locked_bytes"):
        getattr(loaded, name).restype = ctypes.c_size_t
    return loaded


@functools.cache
def handlers() -> tuple[dict[str, Any], dict[str, Any]]:
    """Callbax's own for GPUs, shown CPU programs' frames as a GPU's; and their state's type."""
    from callbax import _native

    found, state = _native.cuda_callback_handlers()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    library().fake_wrap(ctypes.c_void_p(pointer(found["execute"], None)))
    return {**found, "execute": jax.ffi.pycapsule(library().fake_execute)}, state


def run_all_programs_so() -> None:
    """Before callbax is imported: its callbacks on CPU get these handlers.

    Programs in processes of their own do not.
    """
    library()
    os.environ["CALLBAX_RUNTIME"] = ""
    register, register_type = jax.ffi.register_ffi_target, jax.ffi.register_ffi_type

    def register_fake(name: str, given: Any, platform: str = "cpu", **kwargs: Any) -> None:
        if name in _TARGETS and platform == "cpu":
            given = handlers()[0]
        register(name, given, platform=platform, **kwargs)

    def register_fake_type(name: str, given: Any, platform: str = "cpu") -> None:
        if name == "callbax_call_site" and platform == "cpu":
            given = handlers()[1]
        register_type(name, given, platform=platform)

    jax.ffi.register_ffi_target, jax.ffi.register_ffi_type = register_fake, register_fake_type
    try:
        import callbax  # noqa: F401 - registers its handlers
    finally:
        jax.ffi.register_ffi_target, jax.ffi.register_ffi_type = register, register_type


@functools.cache
def _register_beside() -> None:
    jax.ffi.register_ffi_type("callbax_fake_cuda_site", handlers()[1], platform="cpu")
    for name in (_BESIDE, _PLACED_BESIDE):
        jax.ffi.register_ffi_target(name, handlers()[0], platform="cpu")


_BESIDE = "callbax_call_on_fake_cuda"
_PLACED_BESIDE = "xla_python_gpu_callback"  # XLA knows it as one of a host callback; nobody has it


@contextlib.contextmanager
def programs_so() -> Iterator[None]:
    """Programs that are compiled meanwhile are called so."""
    if IS_ON:
        yield
        return
    from callbax import _start

    library()
    _register_beside()
    before = _start.TARGET, _start.PLACED_TARGET
    _start.TARGET, _start.PLACED_TARGET = _BESIDE, _PLACED_BESIDE
    try:
        yield
    finally:
        _start.TARGET, _start.PLACED_TARGET = before
