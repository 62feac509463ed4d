"""The stand-in for NVIDIA's driver, and programs over it in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import fake_cuda
import jax
import pytest

TESTS = Path(__file__).resolve().parents[1]

START = """
import sys
sys.path.insert(0, {tests!r})
import fake_cuda
fake_cuda.run_all_programs_so()
import threading, time
import jax, numpy as np
import jax.numpy as jnp
import callbax
from callbax import _native
driver = fake_cuda.library()

def add(x):
    return x + 1

def program(size):
    struct = jax.ShapeDtypeStruct((size,), np.float32)
    return jax.jit(lambda x: callbax.pure_callback(add, struct, x))

def accounted():
    found = _native.cuda_statistics()
    return sum(found[state + "_bytes"] for state in ("idle", "held", "in_flight", "lost"))
"""


@pytest.fixture(autouse=True)
def _programs_on_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("the stand-in is for programs on CPU")


@pytest.fixture
def run():
    """Runs a program over the stand-in; returns what it prints."""

    def run(program, timeout=120, **environment):
        text = START.format(tests=str(TESTS)) + program
        fake_cuda.library()  # built once, for all
        return subprocess.run(
            [sys.executable, "-c", text],
            env={**os.environ, "CALLBAX_RUNTIME": "fake-cuda", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def driver():
    """The stand-in, and afterwards as it was."""
    library = fake_cuda.library()
    yield library
    library.fake_delay(0, 0)
    library.fake_capture(0)
    for name in fake_cuda.FUNCTIONS:
        library.fake_fail(name.encode(), 0, 0)
