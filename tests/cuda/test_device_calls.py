"""Functions that get arrays in a GPU's memory (device=True), over a stand-in for NVIDIA's driver.

`fake_scale` is what another library computes there; it has streams of its own.
"""

import fake_cuda
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices, error_of

import callbax as cb
from callbax import _native
from callbax._callbacks import devices as device_calls

pytestmark = pytest.mark.skipif(fake_cuda.compiler() is None, reason="there is no C++ compiler")

x = np.arange(6, dtype=np.float32).reshape(2, 3)
CUDA = 2


@pytest.fixture(autouse=True)
def _on_fake_gpu(monkeypatch):
    real = device_calls.gets_gpu_arrays

    def gets_gpu_arrays(host_call, platforms, runtime, avals):
        return real(host_call, ("cuda",), runtime, avals)

    monkeypatch.setattr(device_calls, "gets_gpu_arrays", gets_gpu_arrays)
    with fake_cuda.programs_so():
        yield


def scaling(driver, factor=2.0, result=None, **options):
    """An external function that writes `factor * a` to `out` on XLA's stream."""

    def scale(a, out):
        assert a.__dlpack_device__() == (CUDA, 0) and a.stream == out.stream
        count = int(np.prod(a.shape))
        driver.fake_scale(out.pointer, a.pointer, count, factor, a.stream)

    options = {"arrays": "dlpack", "device": True, "out": True, **options}
    return cb.external(scale, result=cb.like(0) if result is None else result, **options)


def counts(driver, *names):
    return [driver.fake_calls(name.encode()) for name in names]


COPIES = ("cuMemcpyDtoHAsync_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoDAsync_v2")


def test_nothing_is_copied_or_waited_for(driver):
    program = jax.jit(lambda x: scaling(driver)(x + 1))
    driver.fake_delay(2000, 0)
    names = (*COPIES, "cuEventSynchronize", "cuEventRecord", "cuMemHostAlloc")
    before = counts(driver, *names)
    np.testing.assert_array_equal(program(x), 2 * (x + 1))
    assert counts(driver, *names) == before


def test_arguments_say_what_they_are(driver):
    def look(a, out):
        told = a.__cuda_array_interface__
        assert told == {
            "shape": (2, 3),
            "typestr": "<f4",
            "data": (a.pointer, True),
            "version": 3,
            "strides": None,
            "stream": a.stream,
        }
        assert out.__cuda_array_interface__["data"] == (out.pointer, False)
        assert _native.device_of_call() == (0, a.stream)
        driver.fake_scale(out.pointer, a.pointer, 6, 1.0, a.stream)

    program = jax.jit(
        cb.external(look, result=cb.like(0), arrays="cuda_array_interface", device=True, out=True)
    )
    np.testing.assert_array_equal(program(x), x)
    assert _native.device_of_call() is None


def test_an_array_that_is_returned_is_copied_on_the_stream(driver):
    same = cb.external(lambda a: a, result=cb.like(0), arrays="dlpack", device=True)
    before = counts(driver, *COPIES)
    np.testing.assert_array_equal(jax.jit(same)(x), x)
    assert counts(driver, *COPIES) == [before[0], before[1], before[2] + 1]

    @cb.external(result=lambda a, b: {"b": b, "a": a}, arrays="dlpack", device=True)
    def both(a, b):
        return {"a": a, "b": b}

    results = jax.jit(both)(x, 2 * x)
    np.testing.assert_array_equal(results["a"], x)
    np.testing.assert_array_equal(results["b"], 2 * x)


def test_what_is_on_the_host_is_sent(driver):
    number = cb.external(
        lambda a: (np.float32(3), np.ones((3, 2), np.float32).T),
        result=lambda a: (jax.ShapeDtypeStruct((), "f"), a),
        arrays="dlpack",
        device=True,
    )
    three, ones = jax.jit(number)(x)
    assert three == 3
    np.testing.assert_array_equal(ones, np.ones((2, 3)))


@pytest.mark.parametrize(
    "returned, message",
    [
        (lambda a: np.zeros(3, "f"), "Incorrect output shape"),
        (lambda a: np.zeros((2, 3), "complex64"), "Incorrect output dtype"),
        (lambda a: (a, a), "Mismatched number of outputs"),
    ],
)
def test_results_are_checked(returned, message):
    wrong = cb.external(returned, result=cb.like(0), arrays="dlpack", device=True)
    assert message in str(error_of(jax.jit(wrong), x))


def test_other_streams_wait_and_are_waited_for(driver):
    other = driver.fake_stream(0, 3)

    def scale(a, out):
        for array in (a, out, a):
            array.__dlpack__(stream=other)
        driver.fake_scale(out.pointer, a.pointer, 6, 2.0, other)

    on_other = cb.external(scale, result=cb.like(0), arrays="dlpack", device=True, out=True)
    program = jax.jit(lambda x: scaling(driver, 5.0)(on_other(scaling(driver, 3.0)(x))))
    driver.fake_delay(2000, 0)
    before = counts(driver, "cuStreamWaitEvent", "cuEventSynchronize")
    np.testing.assert_array_equal(program(x), 30 * x)
    after = counts(driver, "cuStreamWaitEvent", "cuEventSynchronize")
    assert [a - b for a, b in zip(after, before, strict=True)] == [4, 0]


def test_a_result_is_copied_after_the_stream_that_has_computed_it(driver):
    other = driver.fake_stream(0, 3)

    def scale(a):
        a.__dlpack__(stream=other)
        driver.fake_scale(a.pointer, a.pointer, 6, 2.0, other)
        return a

    program = jax.jit(cb.external(scale, result=cb.like(0), arrays="dlpack", device=True))
    driver.fake_delay(2000, 0)
    before = counts(driver, "cuStreamWaitEvent", "cuEventSynchronize")
    np.testing.assert_array_equal(program(x), 2 * x)
    # The other stream waits before, XLA's after it, and then the other, which may use the memory again.
    assert counts(driver, "cuStreamWaitEvent", "cuEventSynchronize") == [before[0] + 3, before[1]]


def test_who_asks_for_no_order_gets_none(driver):
    def scale(a, out):
        for stream in (-1, a.stream):
            a.__dlpack__(stream=stream)
        with pytest.raises(BufferError, match="0 is not the number of a stream"):
            a.__dlpack__(stream=0)
        driver.fake_scale(out.pointer, a.pointer, 6, 2.0, a.stream)

    program = jax.jit(cb.external(scale, result=cb.like(0), arrays="dlpack", device=True, out=True))
    before = counts(driver, "cuStreamWaitEvent")
    np.testing.assert_array_equal(program(x), 2 * x)
    assert counts(driver, "cuStreamWaitEvent") == before


@pytest.mark.parametrize("keep", [lambda a: a, lambda a: a.__dlpack__(stream=-1)])
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_kept_is_an_error_and_gives_no_memory_any_more(keep, fails):
    kept = []

    def keeping(a, out):
        kept[:] = [a, keep(a), keep(out)]
        if fails:
            raise KeyError("no")

    program = jax.jit(
        cb.external(keeping, result=cb.like(0), arrays="dlpack", device=True, out=True)
    )
    error = error_of(program, x)
    if fails:
        assert type(error) is KeyError and "kept its argument 'a'" in str(error.__notes__)
    else:
        assert type(error) is cb.CallbackViewError
        assert "kept its argument 'a' and its array for the result, out" in str(error)
    with pytest.raises(BufferError, match="a call that has ended"):
        kept[0].__dlpack__()


def test_lanes_and_batches(driver):
    for method in ("sequential", "expand_dims"):
        program = jax.jit(jax.vmap(scaling(driver, vmap_method=method)))
        np.testing.assert_array_equal(program(x), 2 * x)


def test_a_loop_of_calls(driver):
    double = scaling(driver)
    program = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, x: double(x), x))
    np.testing.assert_array_equal(program(x), 1024 * x)


def test_an_exception_is_the_functions_own(driver):
    failing = cb.external(lambda a: {}["missing"], result=cb.like(0), arrays="dlpack", device=True)
    assert type(error_of(jax.jit(failing), x)) is KeyError
    np.testing.assert_array_equal(jax.jit(scaling(driver))(x), 2 * x)


def test_a_failure_on_one_of_several_devices_poisons(driver):
    mesh = jax.sharding.Mesh(devices(2), "i")
    failing = cb.external(lambda a: {}["missing"], result=cb.like(0), arrays="dlpack", device=True)
    specs = jax.sharding.PartitionSpec("i")

    def body(x):
        return jax.lax.psum(failing(x), "i") + x

    sharded = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=specs))
    before = counts(driver, "cuMemsetD8Async")[0]
    error = error_of(sharded, jnp.ones((2, 3)))
    assert type(error) is KeyError
    assert counts(driver, "cuMemsetD8Async")[0] > before


@pytest.mark.parametrize(
    "name", ["cuStreamIsCapturing", "cuMemcpyDtoDAsync_v2", "cuStreamWaitEvent", "cuEventRecord"]
)
def test_a_failure_of_the_driver_is_an_error_that_names_it(driver, name):
    def function(a):
        a.__dlpack__(stream=driver.fake_stream(0, 3))
        return a

    program = jax.jit(cb.external(function, result=cb.like(0), arrays="dlpack", device=True))
    driver.fake_fail(name.encode(), 1, fake_cuda.ILLEGAL_ADDRESS)
    with pytest.raises(Exception, match=f"{name}: CUDA_ERROR_ILLEGAL_ADDRESS"):
        jax.block_until_ready(program(x))
    np.testing.assert_array_equal(program(x), x)


def test_a_stream_that_is_captured_is_refused(driver):
    program = jax.jit(scaling(driver))
    driver.fake_capture(1)
    with pytest.raises(Exception, match="captured into a CUDA graph"):
        jax.block_until_ready(program(x))


def test_packed_types_and_live_lanes_are_refused(driver):
    double = scaling(driver)
    with pytest.raises(TypeError, match="XLA packs int4 in a way that other libraries do not know"):
        jax.jit(double).lower(x.astype(jnp.int4))
    with pytest.raises(ValueError, match="call_where picks its lanes on the host"):
        jax.jit(lambda x: double.call_where(True, x)).lower(x)


def test_the_function_may_have_effects_and_no_arguments(driver):
    seen = []
    tick = cb.external(
        lambda: seen.append(_native.device_of_call()),
        result=None,
        effects="io",
        arrays="dlpack",
        device=True,
    )
    jax.jit(tick)()
    cb.effects_barrier()
    assert seen[0][0] == 0 and seen[0][1] != 0
