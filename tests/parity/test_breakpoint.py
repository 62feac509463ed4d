"""debug.breakpoint: JAX's debugger stops where, as often, and with the values that it does in JAX."""

import io

import jax
import jax.numpy as jnp
import pytest
from helpers import CALLBAX, EACH_LIBRARY, EAGER_AND_JIT, LIBRARIES, both, both_raise, run
from jax import lax


def commands(*lines):
    """What is typed at a breakpoint. What that writes goes to standard output."""
    return io.StringIO("\n".join([*lines, "c", ""]))


@EAGER_AND_JIT
@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"backend": "cli"}], ids=str)
def test_variables_of_the_frames(transform, options):
    def program(library, record):
        outside = [jnp.arange(2)]

        def f(x, y):
            z = {"sum": x + y}
            stdin = commands("p z", "x", "pp [y, outside]", "u", "outside")
            library.debug.breakpoint(stdin=stdin, **options)
            return z, outside[0]

        return transform(f)(1.0, jnp.int32(2))

    printed = both(program).printed
    assert any("{'sum': Array(3., dtype=float32" in line for line in printed)


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda stop: jax.vmap(stop)(jnp.arange(1)), id="vmap"),
        pytest.param(lambda stop: jax.grad(stop)(2.0), id="grad"),
        pytest.param(lambda stop: jax.jit(jax.grad(stop))(2.0), id="jit of grad"),
        pytest.param(
            lambda stop: jax.jit(lambda x: lax.cond(x > 1, stop, stop, x))(2.0), id="cond"
        ),
        pytest.param(lambda stop: lax.fori_loop(0, 3, lambda i, x: stop(x), 2.0), id="loop"),
    ],
)
def test_under_transformations(f):
    def program(library, record):
        def stop(x):
            stops = iter(range(9))

            class Stdin(io.StringIO):
                def readline(self, *_):
                    return ("p x + 1\n", "c\n")[next(stops) % 2]

            library.debug.breakpoint(stdin=Stdin(), num_frames=1)
            return x * 2

        return f(stop)

    theirs, ours = (run(library, program) for library in LIBRARIES)
    assert ours.error is None
    assert len(ours.printed) >= 3
    # JAX shows, too, that a type is weak.
    ours, theirs = (
        [line.replace(", weak_type=True", "") for line in outcome.printed]
        for outcome in (ours, theirs)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    "options", [{"num_frames": 1}, {"num_frames": 3, "filter_frames": False}], ids=str
)
def test_which_frames(options):
    @both
    def outcome(library, record):
        def stop():
            library.debug.breakpoint(stdin=commands("bt", "u", "l", "u", "u", "d"), **options)

        jax.jit(stop)()

    assert any("At topmost frame." in line for line in outcome.printed)
    assert not any("callbax/" in line for line in outcome.printed)


@EAGER_AND_JIT
def test_a_token_says_when(transform):
    @both
    def outcome(library, record):
        def f(x):
            y = library.debug.breakpoint(stdin=commands("p x"), token={"y": x + 1})
            library.debug.breakpoint(stdin=commands("p 'never'"), token=x)
            return y["y"]

        return transform(f)(jnp.float32(1))

    assert outcome.value == 2
    if transform is jax.jit:
        assert outcome.printed == ["Entering jdb:", "(jdb) Array(1., dtype=float32)", "(jdb) "]


def test_token_and_derivatives():
    def program(library, record):
        def f(x):
            return library.debug.breakpoint(stdin=commands("x"), token=x) * x

        return jax.grad(f)(jnp.float32(3))

    assert both(program).value == 3


def test_token_and_order():
    both_raise(
        lambda library, record: library.debug.breakpoint(token=1, ordered=True),
        ValueError,
        "`ordered` and `token` are mutually exclusive arguments",
    )


@EACH_LIBRARY
def test_quit(library):
    def program(library, record):
        library.debug.breakpoint(stdin=io.StringIO("q\n"))

    assert type(run(library, program).error) is SystemExit
    error = run(library, lambda *args: jax.jit(lambda: program(*args))()).error
    assert type(error) is jax.errors.JaxRuntimeError
    if library is CALLBAX:
        assert "the callback breakpoint (" in str(error)
        assert "test_breakpoint.py:" in str(error)
