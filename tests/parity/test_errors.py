"""Errors: an exception in a callback surfaces, always, and harms nothing that comes after."""

import logging

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CALLBAX, EACH_LIBRARY, EAGER_AND_JIT, both, both_raise, devices, run

import callbax

JaxRuntimeError = jax.errors.JaxRuntimeError


class Broken:
    """A callback, in a recorder's place, that fails where its argument is negative."""

    def __init__(self, record, exception=None):
        self.record = record
        self.exception = exception or KeyError("lost in the callback")

    def __call__(self, x):
        self.seen(x)
        return np.asarray(x)

    def seen(self, x):
        self.record.seen(x)
        if np.asarray(x) < 0:
            raise self.exception


@EAGER_AND_JIT
@flavours.each(flavours.WITH_RESULT)
def test_failing_pure_and_io_raise_jax_runtime_error(call, transform):
    """A failing pure/io callback (eager too) surfaces as JaxRuntimeError with the traceback."""

    def program(library, record):
        return transform(lambda x: call(library, Broken(record), x))(-1.0)

    outcome = both_raise(program, JaxRuntimeError, "KeyError: 'lost in the callback'")
    assert isinstance(outcome.error, RuntimeError)
    assert outcome.calls == [-1.0]
    assert "Traceback (most recent call last)" in str(outcome.error)
    assert f'File "{__file__}", line' in str(outcome.error)
    assert "raise self.exception" in str(outcome.error)


@flavours.each(flavours.DEBUG)
def test_failing_jitted_debug_raises_jax_runtime_error(call):
    """A failing jitted debug callback surfaces as JaxRuntimeError, with the traceback."""

    def program(library, record):
        return jax.jit(lambda x: call(library, Broken(record), x))(-1.0)

    outcome = both_raise(program, JaxRuntimeError, "KeyError: 'lost in the callback'")
    assert f'File "{__file__}", line' in str(outcome.error)
    assert "raise self.exception" in str(outcome.error)


@flavours.each(flavours.DEBUG)
@pytest.mark.parametrize("exception", [KeyError("lost"), SystemExit(3), KeyboardInterrupt()])
def test_failing_eager_debug_raises_the_original_exception(call, exception):
    """A failing **eager** debug callback raises the original exception, SystemExit included."""

    def program(library, record):
        call(library, Broken(record, exception), jnp.float32(-1.0))

    outcome = both_raise(program, type(exception), str(exception))
    assert outcome.error is exception


@flavours.each(flavours.WITH_RESULT)
@pytest.mark.parametrize("exception", [SystemExit(3), KeyboardInterrupt("stop")])
def test_base_exceptions_surface_as_jax_runtime_error(call, exception):
    """A failing pure/io callback surfaces as JaxRuntimeError: exceptions of every kind."""

    def program(library, record):
        return jax.jit(lambda x: call(library, Broken(record, exception), x))(-1.0)

    both_raise(program, JaxRuntimeError, type(exception).__name__)


@EACH_LIBRARY
@EAGER_AND_JIT
@flavours.each(flavours.WITH_RESULT)
def test_failing_pure_and_io_are_logged_with_their_traceback(library, call, transform, caplog):
    """Failing pure/io callbacks are logged at ERROR with the traceback."""

    def program(library, record):
        return transform(lambda x: call(library, Broken(record), x))(-1.0)

    assert run(library, program).error is not None
    records = [r for r in caplog.records if r.levelno == logging.ERROR and r.exc_info]
    assert len(records) == 1
    assert type(records[0].exc_info[1]) is KeyError
    assert "raise self.exception" in caplog.text


@EAGER_AND_JIT
@flavours.each([flavours.pure, flavours.io, flavours.ordered_io])
def test_a_failing_jax_call_inside_a_callback_does_not_deadlock(call, transform):
    """A failing JAX call made inside a callback must not deadlock."""

    def program(library, record):
        def host(x):
            jnp.zeros((2, 3)) @ jnp.zeros((2, 3))
            return np.asarray(x)

        return transform(lambda x: call(library, record.of(host), x))(1.0)

    outcome = both_raise(program, JaxRuntimeError, "TypeError: dot_general")
    assert outcome.calls == [1.0]


@flavours.each(flavours.EFFECTFUL)
def test_the_next_call_after_an_error_works(call):
    """After an error the next barrier is clean, and later ordered callbacks still work."""

    def program(library, record):
        f = jax.jit(lambda x: call(library, Broken(record), x))
        for _ in range(3):
            with pytest.raises(JaxRuntimeError, match="lost in the callback"):
                jax.block_until_ready(f(-1.0))
                library.effects_barrier()
        library.effects_barrier()
        value = jax.block_until_ready(f(1.0))
        library.effects_barrier()
        return value

    outcome = run(CALLBAX, program)
    assert outcome.error is None
    assert outcome.value == 1.0
    assert outcome.calls == [-1.0, -1.0, -1.0, 1.0]


@EAGER_AND_JIT
def test_a_failing_pure_callback_fails_on_every_call(transform):
    """An error surfaces on the first, second and third call alike, and the next call works."""

    @both
    def outcome(library, record):
        f = transform(lambda x: flavours.pure(library, Broken(record), x))
        for _ in range(3):
            with pytest.raises(JaxRuntimeError, match="lost in the callback"):
                jax.block_until_ready(f(-1.0))
        return f(1.0)

    assert outcome.value == 1.0
    assert outcome.calls == [-1.0, -1.0, -1.0, 1.0]


CONTROL_FLOW = {
    "scan": lambda f, x: jax.lax.scan(lambda c, y: (c, f(y)), 0.0, jnp.stack([-x, x]))[1],
    "cond": lambda f, x: jax.lax.cond(x < 0, f, lambda x: x, x),
    "switch": lambda f, x: jax.lax.switch(1, [lambda x: x, f], x),
    "while body": lambda f, x: jax.lax.while_loop(lambda y: y < 0, lambda y: f(y) + 2, x),
    "fori": lambda f, x: jax.lax.fori_loop(0, 2, lambda i, y: f(y) * 1, x),
    "nested jit": lambda f, x: jax.jit(f)(x),
    "remat": lambda f, x: jax.checkpoint(f)(x),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("where", CONTROL_FLOW)
@EAGER_AND_JIT
@flavours.each([flavours.pure, flavours.io, flavours.ordered_io, flavours.debug])
def test_errors_surface_from_inside_control_flow(where, call, transform):
    """A failing callback surfaces from inside scan and cond, eager and jitted."""
    if call is flavours.debug and where in ("nested jit", "remat") and transform is not jax.jit:
        pytest.skip("such a debug callback may run eagerly")

    def program(library, record):
        f = CONTROL_FLOW[where]
        return transform(lambda x: f(lambda y: call(library, Broken(record), y), x))(-1.0)

    both_raise(program, JaxRuntimeError, "lost in the callback")


@flavours.each(flavours.EFFECTFUL)
def test_errors_on_another_device_surface_too(call):
    """An error surfaces with 8 CPU devices as with one."""

    def program(library, record):
        x = jax.device_put(np.float32(-1), devices(6)[-1])
        return jax.jit(lambda x: call(library, Broken(record), x))(x)

    both_raise(program, JaxRuntimeError, "lost in the callback")


@EAGER_AND_JIT
@flavours.each(flavours.WITH_RESULT)
def test_the_original_exception_can_be_had_back(call, transform):
    """original_exception and reraise give back the very exception object with its traceback."""
    exception = KeyError("lost")

    def program(library, record):
        return transform(lambda x: call(library, Broken(record, exception), x))(-1.0)

    error = run(CALLBAX, program).error
    assert callbax.original_exception(error) is exception
    assert exception.__traceback__.tb_frame.f_code.co_name == "__call__"

    def reraising(library, record):
        with callbax.reraise():
            jax.block_until_ready(program(library, record))

    outcome = run(CALLBAX, reraising)
    assert outcome.error is exception
    assert type(outcome.error.__cause__) is JaxRuntimeError
