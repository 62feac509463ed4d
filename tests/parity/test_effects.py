"""Effects: which callbacks run, how often, and that their effect objects are JAX's own."""

import flavours
import jax
import jax.numpy as jnp
import pytest
from helpers import CALLBAX, EAGER_AND_JIT, JAX, LIBRARIES, Recorder, both, run
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu


@flavours.each(flavours.EFFECTFUL)
def test_effect_objects_are_the_very_ones_of_jax(call):
    """Use the very effect objects that JAX's own callbacks use."""
    theirs, ours = (
        jax.make_jaxpr(lambda x, library=library: call(library, Recorder(), x))(1.0).effects
        for library in LIBRARIES
    )
    assert len(ours) == 1
    assert list(map(id, theirs)) == list(map(id, ours))


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
def test_pure_has_no_effect(library):
    """pure: no effect."""
    jaxpr = jax.make_jaxpr(lambda x: flavours.pure(library, Recorder(), x))(1.0)
    assert not jaxpr.effects


def test_pure_with_unused_result_does_not_run_under_jit():
    """pure: unused result under jit: must not run."""

    @both
    def outcome(library, record):
        @jax.jit
        def f(x):
            flavours.pure(library, record, x)
            return x + 1

        return f(1.0)

    assert outcome.calls == []
    assert outcome.value == 2.0


def test_pure_with_unused_result_runs_when_eager():
    """pure: unused result: eager runs."""

    @both
    def outcome(library, record):
        jax.block_until_ready(flavours.pure(library, record, 1.0))

    assert outcome.calls == [1.0]


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
def test_two_identical_pure_calls_run_once_or_twice(library):
    """Two identical pure calls may run once or twice."""

    def program(library, record):
        @jax.jit
        def f(x):
            return flavours.pure(library, record, x) + flavours.pure(library, record, x)

        return f(1.5)

    outcome = run(library, program)
    assert outcome.value == 3.0
    assert outcome.calls in ([1.5], [1.5, 1.5])


@flavours.each(flavours.EFFECTFUL)
@EAGER_AND_JIT
def test_effectful_calls_are_never_dropped_or_merged(call, transform):
    """io and debug are never dropped or merged."""

    @both
    def outcome(library, record):
        def f(x):
            call(library, record, x)
            call(library, record, x)
            return x

        return transform(f)(1.5)

    assert outcome.calls == [1.5, 1.5]


@flavours.each(flavours.EFFECTFUL)
def test_effectful_calls_are_not_hoisted_out_of_loops(call):
    """io and debug are never dropped or merged, nor moved out of a loop."""

    @both
    def outcome(library, record):
        @jax.jit
        def f(x):
            return jax.lax.fori_loop(0, 5, lambda i, y: (call(library, record, x), y + 1)[1], x)

        return f(1.0)

    assert outcome.calls == [1.0] * 5
    assert outcome.value == 6.0


def test_ordered_effects_of_both_libraries_share_one_order():
    """Ordered callbacks of JAX and callbax in one program keep the program's order."""

    @both
    def outcome(library, record):
        @jax.jit
        def f(x):
            for i in range(6):
                other = JAX if i % 2 else CALLBAX
                flavours.ordered_io(other, record, x + i)
            return x

        return f(0.0)

    assert outcome.calls == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("ordered", [False, True])
def test_io_works_in_pallas_interpreter(ordered):
    """Effect classes of our own would make ordered IO through Pallas fail with a KeyError."""

    @both
    def outcome(library, record):
        def kernel(x_ref, out_ref):
            library.io_callback(record.seen, None, x_ref[0, 0], ordered=ordered)
            library.io_callback(record.seen, None, x_ref[0, 1], ordered=ordered)
            out_ref[...] = x_ref[...] * 2

        shape = jax.ShapeDtypeStruct((1, 2), jnp.float32)
        call = pl.pallas_call(kernel, out_shape=shape, interpret=tpu.InterpretParams())
        return jax.jit(call)(jnp.arange(2.0).reshape(1, 2))

    assert outcome.sorted_calls == [0.0, 1.0]
    assert outcome.value.tolist() == [[0.0, 2.0]]
