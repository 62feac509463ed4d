"""Order across programs and devices, and the barrier."""

import itertools
import time

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CALLBAX, JAX, LIBRARIES, Recorder, both, devices
from jax.sharding import NamedSharding, PartitionSpec


def test_one_order_across_programs_on_different_devices():
    """One order across programs and re-dispatch on different devices: 8 jits over device pairs."""
    four = devices(4)

    @both
    def outcome(library, record):
        def slow(x):
            # The earlier the call, the longer it takes: without order the last would come first.
            time.sleep(0.02 * (8 - np.asarray(x)[0]))
            record.seen(x)

        f = jax.jit(lambda x: library.io_callback(slow, None, x, ordered=True))
        for i in range(8):
            pair = four[:2] if i % 2 else four[2:]
            mesh = jax.sharding.Mesh(np.array(pair), ("i",))
            f(jax.device_put(jnp.full(2, i), NamedSharding(mesh, PartitionSpec("i"))))

    assert outcome.calls == [[i, i] for i in range(8)]


@flavours.each([flavours.ordered_io, flavours.ordered_debug])
def test_one_order_when_a_program_moves_between_devices(call):
    """Re-dispatch on different devices keeps the order."""
    three = devices(3)

    @both
    def outcome(library, record):
        class Slow:
            @staticmethod
            def seen(x):
                time.sleep(0.01 * (8 - np.asarray(x)))
                record.seen(x)

            def __call__(self, x):
                self.seen(x)
                return np.asarray(x)

        slow = Slow()
        f = jax.jit(lambda x: call(library, slow, x))
        for i, device in zip(range(8), itertools.cycle(three), strict=False):
            f(jax.device_put(np.int32(i), device))

    assert outcome.calls == list(range(8))


@pytest.mark.parametrize("barrier", LIBRARIES, ids=lambda library: f"{library}.effects_barrier")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: f"{library} callback")
@flavours.each(flavours.EFFECTFUL)
def test_effects_barrier_waits_for_both_libraries(barrier, library, call):
    """`effects_barrier` waits for ours and for JAX's own tokens, and JAX's waits for ours."""
    record = Recorder()

    class Slow:
        @staticmethod
        def seen(x):
            time.sleep(0.05)
            record.seen(x)

        def __call__(self, x):
            self.seen(x)
            return np.asarray(x)

    slow = Slow()
    jax.jit(lambda x: call(library, slow, x))(1.0)
    barrier.effects_barrier()
    assert record.calls == [1.0]


def test_the_barrier_is_clean_after_an_error():
    """After an error the next barrier is clean."""

    def fail():
        raise ValueError("broken on purpose")

    for ordered in (False, True):
        with pytest.raises(jax.errors.JaxRuntimeError, match="broken on purpose"):
            jax.jit(lambda ordered=ordered: CALLBAX.io_callback(fail, None, ordered=ordered))()
            CALLBAX.effects_barrier()
        CALLBAX.effects_barrier()
        JAX.effects_barrier()


def test_unordered_effects_of_many_programs_all_run_before_the_barrier_returns():
    """`effects_barrier` waits for unordered io and debug."""

    @both
    def outcome(library, record):
        f = jax.jit(lambda x: flavours.io(library, record, x))
        for i in range(20):
            f(i)
        library.effects_barrier()
        return len(record.calls)

    assert outcome.value == 20
    assert sorted(outcome.calls) == list(range(20))
