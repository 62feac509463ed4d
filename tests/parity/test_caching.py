"""Equal calls are traced and compiled once, and a callback lives as long as its program."""

import gc
import sys
import time
import weakref

import flavours
import jax
import jax.numpy as jnp
import numpy as np
from helpers import CALLBAX, EACH_LIBRARY, Recorder, compile_count

SCALAR = jax.ShapeDtypeStruct((), np.float32)


class python_calls:
    """Counts calls of the Python functions of that name on this thread, inside the block."""

    def __init__(self, name):
        self.name, self.count = name, 0

    def __call__(self, frame, event, argument):
        self.count += event == "call" and frame.f_code.co_name == self.name

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)


@EACH_LIBRARY
@flavours.each(flavours.WITH_RESULT)
def test_equal_calls_have_equal_parameters(library, call):
    """Equal function + equal argument tree hash equal: no retrace, no recompile."""
    record = Recorder()

    def parameters():
        jaxpr = jax.make_jaxpr(lambda x: call(library, record, x))(1.0)
        return jaxpr.eqns[0].params

    first, second = parameters(), parameters()
    assert first == second
    assert hash(tuple(first.values())) == hash(tuple(second.values()))


@EACH_LIBRARY
def test_unequal_calls_have_unequal_parameters(library):
    """Another function or another argument tree is another call."""

    def parameters(callback, *args):
        trace = jax.make_jaxpr(lambda *args: library.pure_callback(callback, SCALAR, *args))
        return trace(*args).eqns[0].params

    same = parameters(abs, 1.0)
    assert parameters(abs, 1.0) == same
    assert parameters(round, 1.0) != same
    assert parameters(abs, (1.0,)) != same


@EACH_LIBRARY
@flavours.each(flavours.WITH_RESULT)
def test_three_eager_calls_compile_once(library, call):
    """Three eager calls of one callback: exactly one compile."""
    record = Recorder()
    x = jnp.float32(1.0)
    with compile_count() as compiled:
        for _ in range(3):
            jax.block_until_ready(call(library, record, x))
    library.effects_barrier()
    assert record.calls == [1.0] * 3
    assert len(compiled) == 1


@flavours.each([flavours.pure, flavours.io])
def test_eager_vmaps_of_equal_calls_compile_once(call):
    """Equal function + equal argument tree: no recompile under vmap either (JAX's do)."""
    record = Recorder()
    x = jnp.arange(3.0)
    with compile_count() as compiled:
        for _ in range(3):
            jax.block_until_ready(jax.vmap(lambda x: call(CALLBAX, record, x))(x))
    CALLBAX.effects_barrier()
    assert record.calls == [0.0, 1.0, 2.0] * 3
    assert len(compiled) == 1


@EACH_LIBRARY
def test_two_jitted_pure_calls_miss_the_fast_path_once(library):
    """Two jitted pure calls: one C++ cache miss."""
    record = Recorder()
    f = jax.jit(lambda x: flavours.pure(library, record, x))
    x = jnp.float32(1.0)
    with python_calls("cache_miss") as misses:
        for _ in range(2):
            jax.block_until_ready(f(x))
    assert record.calls == [1.0, 1.0]
    assert misses.count == 1


@EACH_LIBRARY
@flavours.each(flavours.ALL)
def test_the_executable_keeps_the_callback_alive_and_lets_it_go(library, call):
    """The executable keeps the callback alive even if it is the only thing that does…"""
    calls = []

    def compile_program():
        def record(x):
            calls.append(np.asarray(x).item())
            return np.asarray(x)

        record.seen = record
        x = jax.ShapeDtypeStruct((), np.float32)
        # The program alone holds the callback from here on.
        program = jax.jit(lambda x: call(library, record, x)).lower(x).compile()
        return program, weakref.ref(record)

    program, callback = compile_program()
    gc.collect()
    jax.block_until_ready(program(np.float32(3)))
    library.effects_barrier()
    assert calls == [3.0]

    # …and lets it go after `jax.clear_caches()`.
    del program
    jax.clear_caches()
    for _ in range(50):  # XLA may let go of the program on a thread of its own
        gc.collect()
        if callback() is None:
            break
        time.sleep(0.02)
    assert callback() is None
