"""Failures when installed: logged as JAX logs them, so that what looks for that finds it."""

import contextlib
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import callbax

SCALAR = jax.ShapeDtypeStruct((), np.float32)
NEGATIVE = jnp.float32(-1)


def broken(x):
    raise KeyError("lost")


def misshapen(x):
    return np.zeros(3, np.float32)


CALLS = {
    "pure": lambda x: jax.pure_callback(broken, SCALAR, x),
    "io": lambda x: io_callback(broken, SCALAR, x),
    "ordered io": lambda x: io_callback(broken, SCALAR, x, ordered=True),
    "debug": lambda x: jax.debug.callback(broken, x),
    "ordered debug": lambda x: jax.debug.callback(broken, x, ordered=True),
    "pure, of another shape": lambda x: jax.pure_callback(misshapen, SCALAR, x),
    "lanes": lambda x: jax.vmap(
        lambda x: jax.pure_callback(broken, SCALAR, x, vmap_method="sequential")
    )(x[None]),
    "lanes, debug": lambda x: jax.vmap(lambda x: jax.debug.callback(broken, x))(x[None]),
}


def run(call):
    """What the call raises, when all is over."""
    with pytest.raises(Exception) as caught:
        jax.block_until_ready(call(NEGATIVE))
        jax.effects_barrier()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        callbax.effects_barrier()  # forgets it, and waits for the log
    return caught.value


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_log_and_the_exception_are_jaxs(call, transform, caplog, capfd):
    def observed():
        caplog.clear()
        error = run(transform(call))
        text = "Incorrect output shape" if "Incorrect" in str(error) else "lost"
        assert text in str(error)
        records = [
            (r.name, r.levelname, r.getMessage(), r.exc_info and r.exc_info[0])
            for r in caplog.records
        ]
        return type(error), records, capfd.readouterr()

    theirs = observed()
    with callbax.installed():
        assert observed() == theirs


@pytest.mark.parametrize("on_thread_of_xla", [False, True])
def test_what_is_silenced_for_a_call_stays_silent(on_thread_of_xla):
    """As Equinox does it: the filter is gone when the call has ended."""
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = logging.getLogger("jax._src.callback")
    refuse = lambda record: record.getMessage() != "jax.pure_callback failed"  # noqa: E731

    def program(x):
        if on_thread_of_xla:
            x = jnp.broadcast_to(x, (300, 300))
            x = (x @ x).sum()
        return jax.pure_callback(broken, SCALAR, x)

    logger.addHandler(handler)
    try:
        with callbax.installed():
            for is_silent in (True, False) * 3:
                seen.clear()
                if is_silent:
                    logger.addFilter(refuse)
                error = run(jax.jit(program))
                logger.removeFilter(refuse)
                assert isinstance(error, jax.errors.JaxRuntimeError)
                assert seen == ([] if is_silent else ["jax.pure_callback failed"])
    finally:
        logger.removeHandler(handler)
