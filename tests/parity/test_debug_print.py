"""debug.print: what is printed, and when."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EACH_LIBRARY, EAGER_AND_JIT, LIBRARIES, both, run, skip_unless_jax_has
from jax.experimental import pallas as pl

EACH_FORM = pytest.mark.parametrize("ordered", [False, True])


def prints(transform, fmt, *args, **kwargs):
    """The lines that both libraries print."""

    @both
    def outcome(library, record):
        transform(lambda args, kwargs: library.debug.print(fmt, *args, **kwargs))(args, kwargs)

    return outcome.printed


@EAGER_AND_JIT
@EACH_FORM
def test_one_write_with_the_newline_to_the_stdout_of_call_time(transform, ordered, monkeypatch):
    """One `sys.stdout.write(msg + "\\n")`, stdout looked up at call time."""
    for library in LIBRARIES:
        f = transform(lambda x, library=library: library.debug.print("x = {}", x, ordered=ordered))
        f(1)  # traced, compiled and printed under another stdout
        library.effects_barrier()
        writes = []

        class Stdout:
            write = writes.append

            def flush(self):
                pass

        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Stdout())
            f(2)
            library.effects_barrier()
        assert writes == ["x = 2\n"], library


def test_numpy_print_options_are_those_of_trace_time():
    """NumPy print options are captured at **trace** time."""

    @both
    def outcome(library, record):
        f = jax.jit(lambda x: library.debug.print("{}", x))
        with np.printoptions(precision=2, threshold=4, edgeitems=1):
            f(jnp.arange(6) / 3)
            library.effects_barrier()
        with np.printoptions(precision=7):
            f(jnp.arange(6) / 3)

    assert outcome.printed == ["[0.   ... 1.67]"] * 2


@EAGER_AND_JIT
@pytest.mark.parametrize(
    ("fmt", "value", "line"),
    [
        ("{x:.2f}", 2, "2.00"),
        ("{x:.2f}", 2.5, "2.50"),
        ("{x:5d}|", 7, "    7|"),
        ("{x!r}", np.float32(2), "Array(2., dtype=float32)"),
        ("{x}", np.float32(0.1), "0.10000000149011612"),
        ("{x}", True, "True"),
        ("{x}", 1 + 2j, "(1+2j)"),
        ("{x}", np.arange(3), "[0 1 2]"),
        ("{x}", np.zeros((0, 2)), "[]"),
        ("{x}", np.eye(2, dtype=np.float32), None),
        ("{x[1]}", np.arange(3), "1"),
        ("{x.shape}", np.ones((2, 3)), "(2, 3)"),
        ("{x.dtype}", np.float32(1), "float32"),
    ],
)
def test_specs_apply_to_arrays(transform, fmt, value, line):
    """Specs apply to arrays (`{x:.2f}` of 2 prints 2.00)."""
    printed = prints(transform, fmt, x=value)
    if line is not None:
        assert printed == [line]


@EAGER_AND_JIT
@pytest.mark.parametrize("dtype", ["bfloat16", "int4", "float8_e4m3fn", "float16", "bool", "uint8"])
@pytest.mark.parametrize("shape", [(), (2,)], ids=str)
def test_values_of_every_kind_print_as_in_jax(transform, dtype, shape):
    """Printed lines are those of JAX for every dtype."""
    skip_unless_jax_has(dtype)
    assert len(prints(transform, "{x}", x=jnp.ones(shape, dtype))) == 1


@EAGER_AND_JIT
def test_pytrees_print_their_arrays_as_in_jax(transform):
    """Pytrees print as `{'foo': Array(2, dtype=int32)}`."""
    assert prints(transform, "{}", {"foo": jnp.int32(2)}) == ["{'foo': Array(2, dtype=int32)}"]
    printed = prints(transform, "{x}", x=[jnp.float32(2.5), None, jnp.arange(2)])
    assert printed == ["[Array(2.5, dtype=float32), None, Array([0, 1], dtype=int32)]"]


@EAGER_AND_JIT
def test_static_leaves_are_printed(transform):
    """A static dtype prints `float32`; strings and functions are static too."""

    @both
    def outcome(library, record):
        @transform
        def f(x):
            library.debug.print("{} {} {x}", x.dtype, "text", x=x)

        f(jnp.float32(1.0))

    assert outcome.printed == ["float32 text 1.0"]


@EAGER_AND_JIT
@EACH_FORM
def test_print_under_vmap_and_grad(transform, ordered):
    """One line for each lane, with the primal value."""

    @both
    def outcome(library, record):
        def f(x):
            library.debug.print("x = {}", x, ordered=ordered)
            return x * x

        transform(jax.grad(lambda x: jax.vmap(f)(x).sum()))(jnp.arange(3.0))

    assert sorted(outcome.printed) == ["x = 0.0", "x = 1.0", "x = 2.0"]


@EACH_LIBRARY
def test_print_of_a_failing_format_surfaces(library):
    """What the format cannot do at run time surfaces as an error."""

    def program(library, record):
        jax.jit(lambda x: library.debug.print("{:d}", x))(1.5)

    assert type(run(library, program).error) is jax.errors.JaxRuntimeError


def test_refs_are_arguments_of_print_in_pallas():
    """Refs as arguments of debug.print (Pallas) need a discharge rule."""

    @both
    def outcome(library, record):
        def kernel(x_ref, out_ref):
            library.debug.print("x = {}", x_ref)
            out_ref[...] = x_ref[...] + 1

        shape = jax.ShapeDtypeStruct((2,), jnp.float32)
        return pl.pallas_call(kernel, out_shape=shape, interpret=True)(jnp.arange(2.0))

    assert outcome.printed == ["x = [0. 1.]"]
    assert outcome.value.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("flavour", ["print", "callback"])
def test_refs_are_arguments_under_jit(flavour):
    """Refs as arguments: each call sees the value at its place in the program."""

    @both
    def outcome(library, record):
        def look(ref):
            if flavour == "print":
                library.debug.print("{}", ref, ordered=True)
            else:
                library.debug.callback(record.seen, ref, ordered=True)

        @jax.jit
        def f(x):
            ref = jax.new_ref(x)
            look(ref)
            ref[...] = x + 1
            look(ref)
            return ref[...]

        return f(jnp.float32(1))

    assert outcome.value == 2.0
    if flavour == "print":
        assert outcome.printed == ["1.0", "2.0"]
    else:
        assert outcome.calls == [1.0, 2.0]
