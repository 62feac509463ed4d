"""Programs in processes of their own, with a deadline: what hangs or crashes fails only its test."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from helpers import xla_flags
from process.warm import Child, Warm

BEFORE_JAX = """
import logging, os, sys, threading, time
import jax, jax.numpy as jnp, numpy as np
import callbax as cb
from jax import lax

scalar = jax.ShapeDtypeStruct((), jnp.float32)

def print(*values, sep=" ", end="\\n", flush=True):
    '''Python's, in one piece: what another thread logs meanwhile cannot cut the line in two.'''
    sys.stdout.write(sep.join(map(str, values)) + end)

def asynchronous(call):
    '''A program that XLA runs on a thread of its own, and that ends in `call` of a scalar.'''
    return jax.jit(lambda a: call((a @ a).sum()))
"""
PREAMBLE = f"""{BEFORE_JAX}
big = jnp.ones((300, 300))  # a product of it is enough work for XLA to leave the calling thread
"""


@dataclasses.dataclass
class Finished:
    returncode: int
    output: str
    seconds_after_signal: float | None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.process)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that has imported JAX and callbax."""
    process = Warm()
    yield process
    process.close()


@pytest.fixture
def run_program(request: pytest.FixtureRequest, full: bool) -> Callable[..., Finished]:
    """Runs source text after PREAMBLE.

    With `interrupt=True` the program is sent SIGINT shortly after it has printed a line "ready".

    Without --full, a program that neither sets an `environment` nor is marked `cold` is a child of
    a process that has done its imports.
    """
    cold = full or request.node.get_closest_marker("cold")

    def run(
        source: str,
        *,
        devices: int = 1,
        deadline: float = 60,
        interrupt: bool = False,
        environment: Mapping[str, str] | None = None,
        preamble: str = PREAMBLE,
    ) -> Finished:
        program = preamble + textwrap.dedent(source)
        variables = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": xla_flags(devices),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        process: subprocess.Popen[str] | Child
        if cold or environment:
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        else:
            process = request.getfixturevalue("warm").start(program, variables)
        signalled = None
        head = ""
        try:
            if interrupt:
                assert process.stdout is not None
                while "ready" not in head:
                    line = process.stdout.readline()
                    assert line, f"the program ended before it was ready:\n{head}"
                    head += line
                time.sleep(0.3)  # let the program reach the place where it waits
                signalled = time.monotonic()
                process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"no end within {deadline} s; output so far:\n{head}{output}")
        took = None if signalled is None else time.monotonic() - signalled
        return Finished(process.returncode, head + output, took)

    return run


@pytest.fixture
def run_before_jax(run_program: Callable[..., Finished]) -> Callable[..., Finished]:
    """As `run_program`, in a process in which JAX is imported and nothing has been computed."""
    return functools.partial(run_program, preamble=BEFORE_JAX)
