"""Host functions that worker processes import: they must be at the top level of a module."""

import os
import signal
import time

import jax
import numpy as np

import callbax as cb


@cb.external(result=cb.like(0), executor=lambda: None)
def hidden(x):
    """Its name is the External's, so pickle alone would not find it."""
    return x + 1


def square(x):
    return x * x


def process_number(x):
    return np.int32(os.getpid())


def scaled(x, shared, how="add", *, tree=None):
    assert x.flags.writeable and shared.flags.writeable
    shared += 1
    return x + shared.sum() if how == "add" else x * tree["factor"]


def fragile(x):
    if x >= 5:
        raise Unfortunate(float(x), "too large")
    return x


class Unfortunate(Exception):
    """Cannot be pickled: its arguments are not those of its constructor."""

    def __init__(self, value, why):
        super().__init__(f"{value} is {why}")


class Polite(ValueError):
    pass


def polite(x):
    raise Polite(f"no {float(x)}")


def dies_at_three(x):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return x


def backends_started(x):
    from jax._src import xla_bridge  # noqa: TID251

    return np.bool_(xla_bridge.backends_are_initialized())


def write_into(x, out=None):
    np.multiply(x, 3, out=out)


def unpicklable_result(x):
    return lambda: x


def on_jax(x):
    assert isinstance(x, jax.Array)
    return x + 1


class Stubborn(Exception):
    """Has no text and takes no attributes, so it cannot be sent with a note."""

    def __str__(self):
        raise RuntimeError("no text")

    def __setattr__(self, name, value):
        raise RuntimeError("no attributes")


def fails_stubbornly(x):
    raise Stubborn("important")


def third(x):
    return np.asarray(jax.numpy.asarray(x) / 3, x.dtype)


def sine_and_object(x):
    return np.sin(x), {"cosine": np.cos(x)}


def sine_vjp(primals, outputs, cotangents, kept):
    return (kept["cosine"] * cotangents,)
