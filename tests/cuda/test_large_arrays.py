"""Large arrays of programs on a GPU, which are not copied on the host where that can be avoided."""

import fake_cuda
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices, finish

import callbax
from callbax import _native

pytestmark = pytest.mark.skipif(fake_cuda.compiler() is None, reason="there is no C++ compiler")

SIZE = 3 << 20  # of float32: 12 MiB
TO_DEVICE = "cuMemcpyHtoDAsync_v2"
FAILURES = (jax.errors.JaxRuntimeError, ValueError)


@pytest.fixture(autouse=True)
def driver():
    library = fake_cuda.library()
    with fake_cuda.programs_so():
        yield library
    library.fake_delay(0, 0)
    for name in fake_cuda.FUNCTIONS:
        library.fake_fail(name.encode(), 0, 0)
    found = _native.cuda_statistics()
    assert found["held_bytes"] == found["kept_bytes"] == 0
    states = ("idle", "held", "in_flight", "lost")
    assert sum(found[f"{state}_bytes"] for state in states) == library.fake_locked_bytes()


def struct(size=SIZE, dtype=np.float32):
    return jax.ShapeDtypeStruct((size,), dtype)


def program(function, result=None):
    result = struct() if result is None else result
    return jax.jit(lambda x: callbax.pure_callback(function, result, x))


def ramp(size=SIZE):
    return jnp.arange(size, dtype=jnp.float32)


def kept_bytes():
    return _native.cuda_statistics()["kept_bytes"]


# -- operands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "adopted"), [(SIZE, True), (1000, False)])
def test_an_array_that_is_kept_has_its_block(size, adopted):
    kept = []

    def keep(x):
        kept.append(x)
        return x.sum()

    call = program(keep, jax.ShapeDtypeStruct((), np.float32))
    for value in range(3):
        finish(call, jnp.full(size, float(value)))
    assert (kept_bytes() >= 3 * 4 * size) == adopted
    for value, x in enumerate(kept):
        assert x.flags.writeable and x.flags.aligned
        assert (x == value).all()
    kept[0][:] = 7
    assert (kept[1] == 1).all()
    views = [x[5:] for x in kept]
    kept.clear()
    del x
    assert (kept_bytes() > 0) == adopted
    assert (views[2] == 2).all()
    views.clear()
    assert kept_bytes() == 0


def test_an_array_that_is_not_kept_gives_its_block_back(driver):
    call = program(lambda x: x + 1)
    finish(call, ramp())
    finish(call, ramp())
    before = driver.fake_calls(b"cuMemHostAlloc")
    for _ in range(3):
        np.testing.assert_array_equal(finish(call, ramp()), ramp() + 1)
    assert driver.fake_calls(b"cuMemHostAlloc") == before


def test_lanes_have_arrays_of_their_own():
    def change(x, y):
        x += 1
        y += 1
        return x + y

    x = jnp.zeros((3, 1 << 18))
    y = jnp.zeros(1 << 18)

    def call(x, y):
        return callbax.pure_callback(change, y, x, y, vmap_method="sequential")

    batched = jax.jit(jax.vmap(call, in_axes=(0, None)))
    np.testing.assert_array_equal(finish(batched, x, y), np.full(x.shape, 2))


def test_zero_copy_is_of_the_block():
    double = callbax.external(lambda x: x * 2, result=struct(), zero_copy=True)
    call = jax.jit(lambda x: double(x))
    for _ in range(3):
        np.testing.assert_array_equal(finish(call, ramp()), ramp() * 2)


@pytest.mark.parametrize("dtype", ["bool", "int4"])
def test_types_that_are_stored_otherwise(dtype):
    x = jnp.asarray(np.arange(SIZE) % 2).astype(dtype)
    kept = []

    def keep(x):
        kept.append(x)
        return x

    found = finish(program(keep, struct(dtype=x.dtype)), x)
    assert (found == x).all()
    assert (kept[0] == np.asarray(x)).all()
    kept.clear()


# -- results ---------------------------------------------------------------------------------------


def test_a_result_travels_while_it_is_copied(driver):
    given = np.arange(SIZE, dtype=np.float32)
    call = program(lambda x: given)
    before = driver.fake_calls(TO_DEVICE.encode())
    np.testing.assert_array_equal(finish(call, 1.0), given)
    assert driver.fake_calls(TO_DEVICE.encode()) == before + 12  # of 1 MiB


@pytest.mark.parametrize("part", [slice(None), slice(SIZE // 3, None), slice(0, None, 2)], ids=str)
def test_a_result_that_is_in_an_operands_block_travels_from_there(driver, part):
    def change(x):
        x += 1
        return x[part]

    call = program(change, struct(len(range(SIZE)[part])))
    before = driver.fake_calls(TO_DEVICE.encode())
    np.testing.assert_array_equal(finish(call, ramp()), (np.arange(SIZE) + 1)[part])
    assert driver.fake_calls(TO_DEVICE.encode()) == before + 1


@pytest.mark.parametrize("keep", [False, True])
def test_where_the_array_is_kept_too_the_call_ends_when_it_has_arrived(driver, keep):
    kept = []

    def give(x):
        if keep:
            kept.append(x)
        return x

    call = program(give)
    finish(call, ramp())
    driver.fake_delay(3000, 0)
    before = driver.fake_calls(b"cuEventSynchronize")
    np.testing.assert_array_equal(finish(call, ramp()), ramp())
    assert driver.fake_calls(b"cuEventSynchronize") == before + 1 + keep
    kept.clear()


def test_results_in_place():
    @callbax.external(result=struct(), out=True)
    def double(x, *, out):
        np.multiply(x, 2, out=out)

    call = jax.jit(lambda x: double(x))
    for _ in range(3):
        np.testing.assert_array_equal(finish(call, ramp()), ramp() * 2)


def test_where_another_result_must_be_converted():
    given = np.arange(SIZE, dtype=np.float32)

    def give(x):
        return given, 2.5

    both = (struct(), jax.ShapeDtypeStruct((), np.float32))
    first, second = finish(program(give, both), 1.0)
    np.testing.assert_array_equal(first, given)
    assert second == 2.5


def test_where_another_result_is_wrong_nothing_is_lost():
    call = program(lambda x: (np.zeros(SIZE, np.float32), "wrong"), (struct(), struct(2)))
    lost = _native.cuda_statistics()["lost_bytes"]
    for _ in range(2):
        with pytest.raises(FAILURES, match="wrong|result"):
            finish(call, 1.0)
    assert _native.cuda_statistics()["lost_bytes"] == lost


def test_poison_takes_the_place_of_what_was_sent():
    """That a view is kept is found out when the results have been written."""
    mesh = jax.make_mesh((2,), ("i",), devices=devices(2))
    kept = []

    @callbax.external(result=struct(), zero_copy=True)
    def keep_one(x):
        if x[0] == 1:
            kept.append(x)
        return np.ones(SIZE, np.float32)

    def body(x):
        return jax.lax.psum(keep_one(x)[:3], "i")

    spread = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P()))
    found = spread(jax.device_put(jnp.arange(2.0), jax.NamedSharding(mesh, jax.P("i"))))
    assert np.isnan(found).all()
    with pytest.raises(jax.errors.JaxRuntimeError, match="CallbackViewError"):
        callbax.effects_barrier()


def test_the_functions_own_context_is_none_of_the_results(driver):
    def give(x):
        driver.cuCtxSetCurrent(None)
        return x + 1

    np.testing.assert_array_equal(finish(program(give), ramp()), ramp() + 1)
    np.testing.assert_array_equal(finish(program(give, struct(3)), ramp(3)), ramp(3) + 1)


# -- failures --------------------------------------------------------------------------------------

# By function: the calls of it that are made to fail, of a call with an operand, a result that is copied
# and one that is an operand.
STEPS = {
    "cuCtxGetCurrent": (1,),
    "cuCtxSetCurrent": (1,),
    "cuMemcpyDtoHAsync_v2": (1,),
    "cuEventRecord": (1, 2, 3),
    "cuEventSynchronize": (1,),
    TO_DEVICE: (1, 2, 7, 13),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("name", "n"), [(name, n) for name, of in STEPS.items() for n in of])
def test_where_the_driver_refuses_there_is_an_error(driver, name, n):
    given = np.arange(SIZE, dtype=np.float32)
    call = program(lambda x: (given, x), (struct(), struct()))
    finish(call, ramp())
    driver.fake_delay(20_000, 0)
    driver.fake_fail(name.encode(), n, fake_cuda.ILLEGAL_ADDRESS)
    with pytest.raises(FAILURES, match=rf"{name}: CUDA_ERROR_ILLEGAL_ADDRESS"):
        finish(call, ramp())
    driver.fake_delay(0, 0)
    first, second = finish(call, ramp())
    np.testing.assert_array_equal(first, given)
    np.testing.assert_array_equal(second, ramp())
