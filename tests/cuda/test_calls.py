"""Callbacks of programs on a GPU, over a stand-in for NVIDIA's driver (see fake_cuda.h)."""

import contextlib
import threading
import time

import fake_cuda
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices, finish

import callbax
from callbax import _native
from callbax._runtime import long_calls

pytestmark = pytest.mark.skipif(fake_cuda.compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def _on_fake_cuda():
    with fake_cuda.programs_so():
        yield


# A program with several results that has ended on another thread fails with JAX's ValueError.
FAILURES = (jax.errors.JaxRuntimeError, ValueError)


def count(driver, name):
    return driver.fake_calls(name.encode())


def held_and_lost():
    found = _native.cuda_statistics()
    return found["held_bytes"], found["lost_bytes"]


def accounted():
    found = _native.cuda_statistics()
    return sum(found[f"{state}_bytes"] for state in ("idle", "held", "in_flight", "lost"))


def swap(x, y):
    return y + 1, x + 1


def swapping(size):
    """A compiled program with a call of two operands and two results, and its arguments."""
    struct = jax.ShapeDtypeStruct((size,), np.float32)
    program = jax.jit(lambda x, y: callbax.pure_callback(swap, (struct, struct), x, y))
    return program, (jnp.zeros(size), jnp.ones(size))


def check(program, arguments):
    x, y = finish(program, *arguments)
    np.testing.assert_array_equal(x, arguments[1] + 1)
    np.testing.assert_array_equal(y, arguments[0] + 1)


def test_the_handler_for_gpus_is_what_runs(driver):
    before = count(driver, "cuStreamIsCapturing")
    check(*swapping(3))
    assert count(driver, "cuStreamIsCapturing") == before + 1


@pytest.mark.parametrize("copy_us", [0, 20_000])
def test_one_copy_an_array_and_one_wait(driver, copy_us):
    program, arguments = swapping(3)
    check(program, arguments)
    driver.fake_delay(copy_us, 0)
    names = ("cuMemcpyDtoHAsync_v2", "cuMemcpyHtoDAsync_v2", "cuEventRecord")
    before = [count(driver, name) for name in (*names, "cuEventSynchronize")]
    check(program, arguments)
    after = [count(driver, name) for name in (*names, "cuEventSynchronize")]
    *copies, waits = [a - b for a, b in zip(after, before, strict=True)]
    assert copies == [2, 2, 2]
    assert waits == (1 if copy_us else waits)


def test_blocks_are_used_again(driver):
    struct = jax.ShapeDtypeStruct((1000,), np.float32)

    def step(_, x):
        return callbax.pure_callback(lambda x: x + 1, struct, x)

    program = jax.jit(lambda x: jax.lax.fori_loop(0, 50, step, x))
    np.testing.assert_array_equal(program(jnp.zeros(1000)), 50)
    before = count(driver, "cuMemHostAlloc")
    np.testing.assert_array_equal(program(jnp.zeros(1000)), 50)
    assert count(driver, "cuMemHostAlloc") <= before + 1
    assert held_and_lost()[0] == 0


def test_a_call_without_data_does_not_wait_for_the_device(driver):
    names = ("cuMemcpyDtoHAsync_v2", "cuEventRecord", "cuCtxGetCurrent")
    before = [count(driver, name) for name in names]
    seen = []
    jax.jit(lambda: callbax.io_callback(lambda: seen.append(1), None, ordered=True))()
    callbax.effects_barrier()
    assert seen == [1]
    assert [count(driver, name) for name in names] == before


def test_what_the_host_gets_is_the_hosts_own(driver):
    kept = []

    def keep(x):
        kept.append(x)
        return x

    program = jax.jit(lambda x: callbax.pure_callback(keep, x, x))
    for value in range(3):
        finish(program, jnp.full(1000, float(value)))
    assert [float(x[0]) for x in kept] == [0, 1, 2]


def test_views_and_results_in_place_are_of_the_block(driver):
    @callbax.external(result=jax.ShapeDtypeStruct((4,), np.float32), zero_copy=True, out=True)
    def double(x, *, out):
        np.multiply(x, 2, out=out)

    program = jax.jit(lambda x: double(x))
    for value in (1.0, 2.0, 3.0):
        np.testing.assert_array_equal(program(jnp.full(4, value)), 2 * value)
    assert held_and_lost()[0] == 0


def test_a_failing_function_gives_its_block_back(driver):
    def fail(x):
        raise KeyError("lost")

    before = held_and_lost()
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        finish(jax.jit(lambda x: callbax.pure_callback(fail, x, x)), jnp.ones(3))
    assert repr(callbax.original_exception(caught.value)) == "KeyError('lost')"
    assert held_and_lost() == before


def test_where_a_function_fails_on_one_of_several_devices_the_others_do_not_wait(driver):
    mesh = jax.make_mesh((2,), ("i",), devices=devices(2))

    def fail_on_one(x):
        if x[0] == 1:
            raise KeyError("one")
        return x

    def body(x):
        return jax.lax.psum(callbax.pure_callback(fail_on_one, x, x), "i")

    spread = jax.shard_map(body, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P())
    with pytest.raises(jax.errors.JaxRuntimeError, match="KeyError: 'one'"):
        finish(
            jax.jit(spread), jax.device_put(jnp.arange(2.0), jax.NamedSharding(mesh, jax.P("i")))
        )
        callbax.effects_barrier()
    assert held_and_lost()[0] == 0


def test_jax_inside_is_on_a_cpu_of_callbaxs_own(driver):
    seen = []

    def inside(x):
        seen.append(jnp.sum(x).devices())
        return np.float32(jnp.sum(x))

    program = jax.jit(lambda x: callbax.pure_callback(inside, jnp.sum(x), x))
    assert finish(program, jnp.ones(4)) == 4
    with jax.default_device(devices(2)[1]):
        assert finish(program, jnp.ones(4)) == 4
    assert len(seen) == 2 and not any(found & set(jax.devices()) for found in seen)


def test_a_callback_that_runs_long_is_warned_of_once(driver, caplog):
    said = threading.Event()
    caplog.handler.addFilter(lambda record: said.set() or True)

    def waits_until_it_is_told_of(x):
        assert said.wait(60)
        return x

    def so_does_this(x):
        said.clear()
        return waits_until_it_is_told_of(x)

    def is_short(x):
        return x

    program = jax.jit(lambda x: callbax.pure_callback(waits_until_it_is_told_of, x, x))
    other = jax.jit(lambda x: callbax.pure_callback(so_does_this, x, x))
    short = jax.jit(lambda x: callbax.pure_callback(is_short, x, x))
    long_calls.watch(0.1)
    try:
        for _ in range(2):
            finish(program, 1.0)
        for _ in range(100):
            finish(short, 1.0)
        time.sleep(0.3)  # nobody looks any more
        finish(other, 1.0)
    finally:
        long_calls.watch()
    first, second = (record.getMessage() for record in caplog.records)
    assert "waits_until_it_is_told_of" in first and f"{__file__}:" in first
    assert "compilations for its GPU wait" in first and "for 0.1 s" in first
    assert "so_does_this" in second


def test_a_stream_that_is_captured_is_an_error(driver):
    program, arguments = swapping(3)
    driver.fake_capture(1)
    with pytest.raises(FAILURES, match="captured into a CUDA graph"):
        finish(program, *arguments)
    driver.fake_capture(0)
    check(program, arguments)


# By function: how often a call comes to it, if there is no block for it yet and copies take a while.
STEPS = {
    "cuStreamIsCapturing": 1,
    "cuCtxGetCurrent": 1,
    "cuCtxSetCurrent": 1,
    "cuEventCreate": 1,
    "cuMemcpyDtoHAsync_v2": 2,
    "cuEventRecord": 2,
    "cuEventSynchronize": 1,
    "cuMemcpyHtoDAsync_v2": 2,
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "n"), [(name, n + 1) for name, steps in STEPS.items() for n in range(steps)]
)
def test_where_the_driver_refuses_there_is_an_error(driver, name, n):
    program, arguments = swapping(20_000 if name == "cuEventCreate" else 1000)
    driver.fake_delay(20_000, 0)
    driver.fake_fail(name.encode(), n, fake_cuda.ILLEGAL_ADDRESS)
    with pytest.raises(FAILURES) as caught:
        finish(program, *arguments)
    message = str(caught.value)
    step = rf"{name}: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)"
    assert step in message
    assert "callbax: a call (pure_callback) of " in message and "swap" in message
    assert held_and_lost()[0] == 0
    assert accounted() == driver.fake_locked_bytes()
    driver.fake_delay(0, 0)
    check(program, arguments)


def test_where_nothing_carries_a_refusal_the_barrier_raises_it(driver, monkeypatch):
    """As on a GPU, where the call itself does not."""
    monkeypatch.setattr(callbax._jax, "is_for_cuda", lambda ctx: True)
    program = jax.jit(lambda x: callbax.io_callback(lambda x: None, None, x))
    driver.fake_fail(b"cuEventRecord", 1, fake_cuda.ILLEGAL_ADDRESS)
    with contextlib.suppress(*FAILURES):
        program(jnp.ones(1000))
    with pytest.raises(jax.errors.JaxRuntimeError, match="cuEventRecord: CUDA_ERROR_ILLEGAL"):
        callbax.effects_barrier()


def test_a_block_whose_event_cannot_be_asked_is_lost(driver):
    program, arguments = swapping(1000)
    check(program, arguments)  # its block is in flight
    before = held_and_lost()[1]
    driver.fake_fail(b"cuEventQuery", 1, fake_cuda.ILLEGAL_ADDRESS)
    check(program, arguments)
    assert held_and_lost()[1] > before
    assert accounted() == driver.fake_locked_bytes()


def test_where_a_wait_by_asking_fails_there_is_an_error(driver):
    program, arguments = swapping(1000)
    check(program, arguments)
    check(program, arguments)
    driver.fake_delay(5000, 0)  # it asks again while the copies take so long
    driver.fake_fail(b"cuEventQuery", 2, fake_cuda.ILLEGAL_ADDRESS)
    with pytest.raises(FAILURES, match="cuEventQuery: CUDA_ERROR_ILLEGAL"):
        finish(program, *arguments)
    assert held_and_lost()[0] == 0
    check(program, arguments)


def test_where_no_memory_can_be_locked_ordinary_memory_serves(driver):
    program, arguments = swapping(30_000)  # for which there is no block yet
    copies = driver.fake_pageable_copies()
    driver.fake_fail(b"cuMemHostAlloc", 1, 2)
    check(program, arguments)
    assert driver.fake_pageable_copies() == copies + 4
    assert accounted() == driver.fake_locked_bytes()
    check(program, arguments)
    assert driver.fake_pageable_copies() == copies + 4


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "dtype", ["bool", "int4", "uint2", "bfloat16", "float8_e4m3fn", "complex64"]
)
@pytest.mark.parametrize("shape", [(), (5,), (0, 3)], ids=str)
def test_every_dtype_travels(driver, dtype, shape):
    values = np.arange(int(np.prod(shape))).reshape(shape) % 2
    x = jnp.asarray(values).astype(dtype)
    seen = []

    def look(x):
        seen.append(np.array(x))
        return x

    result = finish(jax.jit(lambda x: callbax.io_callback(look, x, x)), x)
    np.testing.assert_array_equal(np.asarray(result), np.asarray(x))
    np.testing.assert_array_equal(seen[0], np.asarray(x))


def test_lanes(driver):
    program = jax.jit(jax.vmap(lambda x: callbax.pure_callback(np.sum, jnp.sum(x), x)))
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(program(x), x.sum(1))


def test_what_has_no_stream_is_an_error():
    """As programs for CPU have none, if they are called as they are."""
    stages, _ = _native.cuda_callback_handlers()
    fake_cuda.handlers("callback")  # the type of the state is registered
    jax.ffi.register_ffi_target("callbax_call_without_stream", stages, platform="cpu")
    from callbax import _start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_start, "TARGET", "callbax_call_without_stream")
        program = jax.jit(lambda x: callbax.pure_callback(np.sin, x, x))
        with pytest.raises(jax.errors.JaxRuntimeError, match="XLA has no stream for it"):
            finish(program, 1.0)


# -- compiled functions ----------------------------------------------------------------------------


def test_compiled_functions_are_called_over_host_memory(driver):
    before = count(driver, "cuMemcpyDtoHAsync_v2"), count(driver, "cuMemcpyHtoDAsync_v2")
    x = np.linspace(0.5, 3, 1000)
    with jax.enable_x64(True):
        found = finish(jax.jit(callbax.ufunc(np.logaddexp)), x, 1.0)
    np.testing.assert_array_equal(found, np.logaddexp(x, 1.0))
    after = count(driver, "cuMemcpyDtoHAsync_v2"), count(driver, "cuMemcpyHtoDAsync_v2")
    assert (after[0] - before[0], after[1] - before[1]) == (2, 1)
    assert held_and_lost()[0] == 0


def test_where_the_driver_refuses_a_compiled_function_its_name_is_in_the_error(driver):
    program = jax.jit(callbax.ufunc(np.logaddexp))
    driver.fake_fail(b"cuMemcpyHtoDAsync_v2", 1, fake_cuda.ILLEGAL_ADDRESS)
    expected = (
        "of the compiled function .*logaddexp.* failed between the GPU and the host: cuMemcpyH"
    )
    with pytest.raises(FAILURES, match=expected):
        finish(program, jnp.ones(3), jnp.ones(3))
    assert held_and_lost()[0] == 0
    np.testing.assert_allclose(finish(program, jnp.ones(3), jnp.ones(3)), 1 + np.log(2), rtol=1e-6)
