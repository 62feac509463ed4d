"""The loggers that callbax writes to: how to silence a part of what they log, or all.

    python examples/recipes/quiet_logs.py

`callbax` logs each callback that fails, with its traceback, at level ERROR; `callbax.debug` what
`debug.log` says, at level INFO; `callbax.tools`, that a progress bar cannot be shown, as a WARNING;
`callbax.host_callback`, each `barrier_wait`, at level DEBUG. What `tools.raise_if` and `check_finite`
raise is meant for the caller, and is not logged.
"""

import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np

import callbax as cb


class Brief(logging.Formatter):
    """Without tracebacks."""

    def formatException(self, information):
        return f"  {information[0].__name__}: {information[1]}"


handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(Brief("%(levelname)s of %(name)s: %(message)s"))
logging.getLogger("callbax").addHandler(handler)
logging.getLogger("callbax").propagate = False


def root(x):
    if x < 0:
        raise ValueError("there is no real root")
    return np.sqrt(x)


@jax.jit
def program(x):
    cb.debug.log("x = {:.1f}", x)
    return cb.pure_callback(root, x, x)


def is_unexpected(record):
    return not isinstance(record.exc_info[1], ValueError)


def run(title):
    print(f"-- {title}")
    try:
        with cb.reraise():  # silent or not, the exception is raised
            program(jnp.float32(-4)).block_until_ready()
    except ValueError as error:
        print("raised:", error)


run("all that is logged")
handler.setLevel(logging.WARNING)
run("without debug.log")
handler.addFilter(is_unexpected)
run("without this exception")
handler.removeFilter(is_unexpected)
logging.getLogger("callbax").setLevel(logging.CRITICAL)
run("silent")
