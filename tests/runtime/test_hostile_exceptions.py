"""Exceptions, callbacks and log handlers whose own code fails: the error names the callback all the
same, its exception is available, and the process goes on."""

import io
import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import callbax as cb

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


def refuse(*args, **kwargs):
    raise RuntimeError("no answer")


class TextFails(Exception):
    __str__ = refuse


class TextExits(Exception):
    def __str__(self):
        raise SystemExit


class ReprFails(Exception):
    __repr__ = __str__ = refuse


class TracebackFails(Exception):
    __traceback__ = property(refuse, refuse)


class CauseFails(Exception):
    __cause__ = property(refuse, refuse)
    __context__ = property(refuse, refuse)
    __suppress_context__ = property(refuse, refuse)


class NotesFail(Exception):
    __notes__ = property(refuse, refuse)


class ClassFails(Exception):
    __class__ = property(refuse)


class WithTracebackFails(Exception):
    with_traceback = refuse
    add_note = refuse


class EverythingFails(Exception):
    __getattribute__ = refuse


class AttributesAreRefused(Exception):
    __setattr__ = __delattr__ = refuse


class NoTruth(Exception):
    __bool__ = __len__ = __eq__ = refuse
    __hash__ = refuse


class GroupFails(ExceptionGroup):
    __str__ = refuse
    exceptions = property(refuse)


HOSTILE = [
    lambda: TextFails("important"),
    lambda: TextExits("important"),
    lambda: ReprFails("important"),
    lambda: TracebackFails("important"),
    lambda: CauseFails("important"),
    lambda: NotesFail("important"),
    lambda: ClassFails("important"),
    lambda: WithTracebackFails("important"),
    lambda: EverythingFails("important"),
    lambda: AttributesAreRefused("important"),
    lambda: NoTruth("important"),
    lambda: ExceptionGroup("important", [TextFails("inside"), TracebackFails("inside")]),
    lambda: GroupFails("important", [EverythingFails("inside")]),
    lambda: MemoryError("important"),
    lambda: RecursionError("important"),
    lambda: GeneratorExit("important"),
    lambda: SystemExit("important"),
    lambda: KeyboardInterrupt("important"),
    lambda: StopIteration("important"),
]


@pytest.fixture
def handlers(monkeypatch):
    """The handlers of callbax's logger, to be replaced."""
    logger = logging.getLogger("callbax")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(logger, "filters", [])
    return logger


def assert_reported(function, expected, name, x=1.0, program=None):
    """The callback's error names it, has a mark, and `expected` is its exception."""
    program = program or jax.jit(lambda x: cb.pure_callback(function, SCALAR, x))
    message, is_expected, is_raised = observe(program, x, expected)
    cb.effects_barrier()  # the log is written
    # Outside of any handler: a failing assertion must not have a hostile context.
    assert name in message
    assert is_expected
    assert is_raised
    assert cb.pure_callback(np.negative, SCALAR, 1.0) == -1  # usable as before


def observe(program, x, expected):
    try:
        program(x).block_until_ready()
    except Exception as error:  # noqa: BLE001
        message, is_expected = str(error), cb.original_exception(error) is expected
        try:
            with cb.reraise():
                raise error
        except BaseException as raised:  # noqa: BLE001
            return message, is_expected, raised is expected
    return "nothing was raised", False, False


@pytest.mark.sampled(4)
@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=lambda i: type(HOSTILE[i]()).__name__)
@pytest.mark.parametrize("shape", [(), (200, 200)], ids=["inline", "on XLA's thread"])
@pytest.mark.parametrize("handler", [logging.NullHandler, logging.StreamHandler])
def test_the_callback_and_its_exception_are_known(handlers, number, shape, handler, capsys):
    handlers.handlers = [handler()]
    hostile = HOSTILE[number]()

    def callback(x):
        raise hostile

    program = jax.jit(lambda x: cb.pure_callback(callback, SCALAR, x.sum()))
    assert_reported(callback, hostile, "callback (", jnp.ones(shape), program)


@pytest.mark.parametrize("as_cause", [False, True])
@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=lambda i: type(HOSTILE[i]()).__name__)
def test_hostile_causes_and_contexts(handlers, number, as_cause):
    hostile = HOSTILE[number]()
    expected = ValueError("the last")

    def callback(x):
        try:
            raise hostile
        except BaseException as error:
            if as_cause:
                raise expected from error
            raise expected  # noqa: B904

    assert_reported(callback, expected, "callback (")


@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("where", ["handler", "filter"])
@pytest.mark.parametrize("shape", [(), (200, 200)], ids=["inline", "on XLA's thread"])
def test_a_log_that_raises_hides_nothing(handlers, raised, where, shape, capsys):
    class Raises(logging.Handler):
        def emit(self, record):
            raise raised("from the log")

        filter = emit

    if where == "handler":
        handlers.handlers = [Raises()]
    else:
        handlers.filters = [Raises()]
    expected = KeyError("important")

    def callback(x):
        raise expected

    program = jax.jit(lambda x: cb.pure_callback(callback, SCALAR, x.sum()))
    assert_reported(callback, expected, "callback (", jnp.ones(shape), program)


def test_what_a_log_handler_raises_is_shown(handlers, capsys):
    class Raises(logging.Handler):
        def emit(self, record):
            raise OSError("the disk is full")

    handlers.handlers = [Raises()]

    def callback(x):
        raise KeyError("important")

    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.jit(lambda x: cb.pure_callback(callback, SCALAR, x))(1.0).block_until_ready()
    cb.effects_barrier()
    assert "OSError: the disk is full" in capsys.readouterr().err


class Nameless:
    """A callback whose names and text fail."""

    __name__ = property(refuse)
    __code__ = property(refuse)
    __repr__ = __str__ = refuse

    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        raise RuntimeError

    def __call__(self, x):
        raise self.error


class ExitsWhenNamed(Nameless):
    def __getattr__(self, name):
        raise SystemExit


@pytest.mark.parametrize("kind", [Nameless, ExitsWhenNamed])
def test_a_callback_that_cannot_be_named_has_the_name_of_its_type(handlers, kind):
    expected = ValueError("important")
    assert_reported(kind(expected), expected, kind.__qualname__ + " (")


@pytest.mark.parametrize("left", range(2, 60, 7))
def test_failures_at_the_recursion_limit(handlers, left):
    """However few frames are left, the callback that failed is named."""
    handlers.handlers = [logging.StreamHandler(io.StringIO())]
    raised = []

    def callback(x):
        try:
            return deep(x)
        except RecursionError as error:
            raised.append(error)
            raise

    def deep(x):
        return deep(x)

    program = jax.jit(lambda x: cb.pure_callback(callback, SCALAR, x))
    with pytest.raises(jax.errors.JaxRuntimeError):
        program(1.0).block_until_ready()
    x = jnp.float32(1)
    errors = []

    def at_depth(depth):
        if depth:
            at_depth(depth - 1)
            return
        try:
            program(x).block_until_ready()
        except jax.errors.JaxRuntimeError as error:
            errors.append(error)

    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    limit = sys.getrecursionlimit()
    try:
        at_depth(limit - depth - left)
    except RecursionError:
        return  # JAX itself had too few
    assert sys.getrecursionlimit() == limit
    (error,) = errors
    assert "callback (" in str(error)
    assert isinstance(cb.original_exception(error), RecursionError)


def test_reraise_lets_hostile_exceptions_of_others_through():
    for make in HOSTILE:
        hostile = make()
        try:
            with cb.reraise():
                raise hostile
        except BaseException as error:  # noqa: BLE001
            assert error is hostile
        assert cb.original_exception(hostile) is None
