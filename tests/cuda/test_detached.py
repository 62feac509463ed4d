"""Effects that programs on a GPU do not wait for, over a stand-in for NVIDIA's driver."""

import gc
import threading
import time

import fake_cuda
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import callbax
from callbax import _native, _start
from callbax._jax import runtime
from callbax._runtime import detached

pytestmark = pytest.mark.skipif(fake_cuda.compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def _detached_on_fake_cuda(monkeypatch):
    monkeypatch.setattr(detached, "_PLATFORMS", ("cpu",))
    monkeypatch.setattr(detached, "_setting", True)
    with fake_cuda.programs_so():
        yield
    callbax.effects_barrier()
    assert _native.cuda_statistics()["held_bytes"] == 0


class Gate:
    """A callback that waits until it is let through, and notes what it has got."""

    def __init__(self):
        self.open = threading.Event()
        self.seen = []

    def __call__(self, x):
        assert self.open.wait(60)
        self.seen.append(np.array(x).item(0))


EFFECTS = {
    "io": lambda f, x: callbax.io_callback(f, None, x),
    "ordered io": lambda f, x: callbax.io_callback(f, None, x, ordered=True),
    "debug": lambda f, x: callbax.debug.callback(f, x),
    "ordered debug": lambda f, x: callbax.debug.callback(f, x, ordered=True),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("effect", EFFECTS)
def test_a_program_does_not_wait_for_its_effects(effect):
    gate = Gate()

    def step(i, x):
        EFFECTS[effect](gate, x + i)
        return x

    program = jax.jit(lambda x: jax.lax.fori_loop(0, 20, step, x))
    np.testing.assert_array_equal(program(jnp.zeros(3)), 0)
    np.testing.assert_array_equal(program(jnp.full(3, 20.0)), 20)
    assert gate.seen == []
    gate.open.set()
    callbax.effects_barrier()
    assert gate.seen == list(range(40))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("effect", ["io", "debug"])  # of ordered ones, where there is one device
def test_calls_after_the_first_are_sent_off_from_cpp(effect, monkeypatch):
    seen = []
    program = jax.jit(lambda x: (EFFECTS[effect](lambda x: seen.append(x.item()), x), x + 1)[1])
    assert program(0.0) == 1
    sent, send = [], runtime.pxla.ExecuteReplicated.__call__
    monkeypatch.setattr(
        runtime.pxla.ExecuteReplicated,
        "__call__",
        lambda self, *args: (sent.append(self), send(self, *args))[1],
    )
    for i in range(1, 5):
        assert program(float(i)) == i + 1
    callbax.effects_barrier()
    assert seen == [0, 1, 2, 3, 4] and sent == []


def test_jaxs_barrier_waits_too():
    gate = Gate()
    jax.jit(lambda x: callbax.debug.callback(gate, x))(1.0)
    threading.Timer(0.1, gate.open.set).start()
    jax.effects_barrier()
    assert gate.seen == [1]


def test_the_arguments_are_the_functions_own(driver):
    kept = []
    program = jax.jit(lambda x: callbax.io_callback(kept.append, None, x))
    for i in range(4):
        program(jnp.full(1000, float(i)))
    callbax.effects_barrier()
    assert [x[0] for x in kept] == [0, 1, 2, 3]


def test_operands_that_are_on_their_way_are_waited_for(driver):
    seen = []
    program = jax.jit(lambda x: callbax.io_callback(lambda x: seen.append(x.sum()), None, x))
    program(jnp.ones(1000))
    callbax.effects_barrier()
    driver.fake_delay(300, 20_000)
    program(jnp.ones(1000))
    callbax.effects_barrier()
    assert seen == [1000, 1000]


def test_calls_without_arguments_and_lanes():
    seen = []
    jax.jit(lambda: callbax.io_callback(lambda: seen.append("no arguments"), None))()
    lane = lambda x: callbax.debug.callback(lambda x: seen.append(x.item()), x)  # noqa: E731
    jax.jit(jax.vmap(lane))(jnp.arange(3))
    callbax.effects_barrier()
    assert seen == ["no arguments", 0, 1, 2]


def fail(x):
    raise KeyError("lost")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("barrier", [callbax.effects_barrier, jax.effects_barrier])
def test_the_barrier_raises_what_failed(barrier):
    seen = []

    def both(x):
        callbax.io_callback(fail, None, x)
        callbax.io_callback(seen.append, None, x)
        return x + 1

    assert jax.jit(both)(1.0) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="the callback fail") as caught:
        barrier()
    assert repr(callbax.original_exception(caught.value)) == "KeyError('lost')"
    barrier()
    assert seen == [1]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "name", ["cuMemcpyDtoHAsync_v2", "cuEventRecord", "cuCtxSetCurrent", "cuEventSynchronize"]
)
def test_the_barrier_raises_what_the_driver_refused(driver, name):
    seen = []
    program = jax.jit(lambda x: (callbax.io_callback(seen.append, None, x), x + 1)[1])
    driver.fake_delay(20_000, 0)  # long: asking for the event is given up, on a busy machine too
    driver.fake_fail(name.encode(), 1, fake_cuda.ILLEGAL_ADDRESS)
    assert program(jnp.ones(1000))[0] == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"{name}: CUDA_ERROR_ILLEGAL_ADDRESS"):
        callbax.effects_barrier()
    driver.fake_delay(0, 0)
    program(jnp.ones(1000))
    callbax.effects_barrier()
    assert len(seen) == 1


def test_an_ordered_call_that_has_a_result_comes_after():
    gate = Gate()

    def both(x):
        callbax.io_callback(gate, None, x, ordered=True)
        return callbax.io_callback(lambda x: np.float32(len(gate.seen)), x, x, ordered=True)

    threading.Timer(0.1, gate.open.set).start()
    assert jax.jit(both)(1.0) == 1


@pytest.mark.sampled(1)
@pytest.mark.parametrize("is_eager", [False, True])
def test_an_ordered_call_elsewhere_comes_after(is_eager):
    """In a program for CPU, and in none."""
    gate = Gate()
    jax.jit(lambda x: callbax.debug.callback(gate, x, ordered=True))(1.0)
    threading.Timer(0.1, gate.open.set).start()
    seen = []
    call = lambda x: callbax.debug.callback(  # noqa: E731
        lambda x: seen.append(len(gate.seen)), x, ordered=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_start, "TARGET", "callbax_call")
        patch.setattr(detached, "_setting", False)
        (call if is_eager else jax.jit(call))(1.0)
    callbax.effects_barrier()
    assert seen == [1]


def test_a_call_outlives_its_program():
    gate = Gate()
    program = jax.jit(lambda x: callbax.io_callback(gate, None, x)).lower(jnp.ones(5)).compile()
    program(jnp.full(5, 7.0))
    del program
    jax.clear_caches()
    gc.collect()
    np.testing.assert_array_equal(jax.jit(lambda x: x + 1)(jnp.zeros(5)), 1)
    gate.open.set()
    callbax.effects_barrier()
    assert gate.seen == [7]


def test_too_many_calls_hold_up_their_programs():
    gate = Gate()
    program = jax.jit(
        lambda x: jax.lax.fori_loop(
            0, 1100, lambda i, x: (callbax.io_callback(gate, None, i, ordered=True), x)[1], x
        )
    )
    program.lower(1.0).compile()
    thread = threading.Thread(target=lambda: jax.block_until_ready(program(1.0)))
    thread.start()
    while _native.cuda_statistics()["detached_calls"] < 1024:
        time.sleep(0.01)
    time.sleep(0.1)
    assert _native.cuda_statistics()["detached_calls"] == 1024 and thread.is_alive()
    gate.open.set()
    thread.join()
    callbax.effects_barrier()
    assert gate.seen == list(range(1100))


def test_threads_keep_their_orders():
    seen = []
    program = jax.jit(lambda k, i: callbax.io_callback(lambda *x: seen.append(x), None, k, i))

    def work(k):
        for i in range(50):
            program(k, i)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    callbax.effects_barrier()
    for k in range(4):
        assert [int(i) for thread, i in seen if thread == k] == list(range(50))


def test_a_barrier_and_a_program_inside_of_such_a_call():
    """They do not wait for the call in which they are."""
    seen = []
    inner = jax.jit(lambda x: callbax.debug.callback(lambda x: seen.append(x.item()), x))

    def outer(x):
        inner(x + 1)
        callbax.effects_barrier()
        seen.append("outer")

    jax.jit(lambda x: callbax.io_callback(outer, None, x))(1.0)
    callbax.effects_barrier()
    assert sorted(map(str, seen)) == ["2.0", "outer"]


def test_installed_over_jax_they_are_detached_by_default(monkeypatch):
    monkeypatch.setattr(detached, "_setting", None)
    assert not detached.is_on(["cpu"])
    callbax.install()
    assert detached.is_on(["cpu"]) and not detached.is_on(["cpu", "cuda"])
    monkeypatch.setattr(detached, "_setting", False)
    assert not detached.is_on(["cpu"])
    monkeypatch.setattr(detached, "_setting", None)
    callbax.uninstall()
    assert not detached.is_on(["cpu"])


def test_another_value_of_the_variable_is_an_error(monkeypatch):
    monkeypatch.setenv("CALLBAX_DETACHED", "yes")
    with pytest.raises(ValueError, match=r"CALLBAX_DETACHED must be '1' .*, but it is 'yes'"):
        detached._read_setting()
