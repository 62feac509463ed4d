"""What the sections share: how they report, how they measure, and the two libraries."""

import contextlib
import json
import logging
import time
import traceback
import types

import jax
from jax.experimental import io_callback

import callbax as cb

assert jax.default_backend() == "gpu", f"JAX's default backend is {jax.default_backend()}"

# Errors that are wanted are not shown.
for name in ("callbax", "jax"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

_JAX = types.SimpleNamespace(
    pure_callback=jax.pure_callback,
    io_callback=io_callback,
    debug=jax.debug,
    effects_barrier=jax.effects_barrier,
)
LIBRARIES = {"jax": _JAX, "callbax": cb}


def _report(kind, what, value):
    print("RESULT", json.dumps([kind, what, value]), flush=True)


def figure(what, value):
    _report("figures", what, value)


@contextlib.contextmanager
def check(what):
    """What raises inside has failed; the section goes on."""
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever it is, it is shown
        traceback.print_exc()
        _report("checks", what, False)
    else:
        _report("checks", what, True)


def best_seconds(function, *arguments, repetitions=5):
    """The least time of some calls, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    taken = []
    for _ in range(repetitions):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        taken.append(time.perf_counter() - start)
    return min(taken)
