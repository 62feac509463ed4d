"""Settings that must stand before JAX starts: eight CPU devices, and no other platform."""

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# With importlib's import mode pytest leaves sys.path alone; the tests import `helpers` by name.
sys.path.insert(0, str(Path(__file__).parent))

import jax  # noqa: E402 - reads the settings above


@pytest.fixture(scope="module", autouse=True)
def _small_heap():
    """What was there before a file's tests is not searched, and its programs end with it.

    Else each search for kept arrays, and each garbage collection, takes as long as all of the files
    that ran before have left objects: seconds, in the end.
    """
    gc.freeze()
    yield
    gc.unfreeze()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory):
    """Compiles source text to a shared library, with callbax's header at hand; returns its path."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("there is no C compiler")

    def compile_source(source: str, suffix: str = ".c") -> str:
        import callbax

        directory = tmp_path_factory.mktemp("library")
        path = directory / f"source{suffix}"
        path.write_text(source)
        library = directory / "library.so"
        language = ["-std=c99", "-Wpedantic"] if suffix == ".c" else ["-lstdc++"]
        flags = ["-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", *language]
        include = f"-I{callbax.get_include()}"
        command = [compiler, include, str(path), "-o", str(library), *flags, "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return str(library)

    return compile_source
