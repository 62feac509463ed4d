"""Kernels: C functions of the prototype in callbax/kernel.h, which get whole arrays."""

import ctypes
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices
from jax import lax

import callbax as cb

SOURCE = """
#include <callbax/kernel.h>
#include <string.h>

/* Cumulative sums along the last axis, times *user_data if there is one. */
int cumulative(const callbax_call* call) {
  const callbax_array* x = &call->arguments[0];
  if (call->struct_size < sizeof(callbax_call) || call->argument_count != 1) return 2;
  if (x->dtype != CALLBAX_FLOAT32) return callbax_fail(call, "x must be float32");
  if (x->rank < 1) return 7;
  const float factor = call->user_data ? *(const float*)call->user_data : 1;
  const float* in = (const float*)x->data;
  float* out = (float*)call->results[0].data;
  const int64_t row = x->shape[x->rank - 1];
  for (int64_t i = 0; i < x->size; ++i) {
    out[i] = factor * in[i] + (i % row ? out[i - 1] : 0);
  }
  return 0;
}

/* What the kernel sees of its first argument: dtype, rank, size, first size. */
int describe(const callbax_call* call) {
  const callbax_array* x = &call->arguments[0];
  int32_t* out = (int32_t*)call->results[0].data;
  out[0] = x->dtype;
  out[1] = x->rank;
  out[2] = (int32_t)x->size;
  out[3] = x->rank ? (int32_t)x->shape[0] : -1;
  return 0;
}

/* Sum and difference of two arrays. */
int both(const callbax_call* call) {
  const float* a = (const float*)call->arguments[0].data;
  const float* b = (const float*)call->arguments[1].data;
  for (int64_t i = 0; i < call->results[0].size; ++i) {
    ((float*)call->results[0].data)[i] = a[i] + b[i];
    ((float*)call->results[1].data)[i] = a[i] - b[i];
  }
  return 0;
}

int fails_at_three(const callbax_call* call) {
  const float x = *(const float*)call->arguments[0].data;
  memcpy(call->results[0].data, &x, sizeof x);
  return x == 3 ? 42 : 0;
}

int talks(const callbax_call* call) {
  char text[5000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = 0;
  return callbax_fail(call, text);
}

/* Leaves no room for the zero at the end. */
int shouts(const callbax_call* call) {
  memset(call->message, 'x', call->message_size);
  return 3;
}
"""
THROWING = """
#include <callbax/kernel.h>
#include <stdexcept>
extern "C" int throws(const callbax_call*) { throw std::runtime_error("lost"); }
"""
X = np.arange(12, dtype=np.float32).reshape(3, 4)
FLOAT = jax.ShapeDtypeStruct((), jnp.float32)
FOUR_INTS = jax.ShapeDtypeStruct((4,), jnp.int32)


@pytest.fixture(scope="module")
def library(compile_c):
    return ctypes.CDLL(compile_c(SOURCE))


@pytest.fixture(scope="module")
def cumulative(library):
    return cb.native(library.cumulative, kernel=True, result=lambda x: x)


def failure(call, caplog):
    """The KernelError of a failing call."""
    with caplog.at_level(logging.CRITICAL), pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(call())
    error = cb.original_exception(caught.value)
    assert isinstance(error, cb.KernelError) and isinstance(error, cb.CallbackError)
    assert str(error) in str(caught.value)
    return error


def test_a_kernel_sees_whole_arrays(cumulative):
    for call in (cumulative, jax.jit(cumulative)):
        np.testing.assert_allclose(call(X), np.cumsum(X, axis=1))


def test_in_scan_and_cond(cumulative):
    def step(carry, x):
        return lax.cond(x.sum() > 6, cumulative, lambda x: x, x) + carry, None

    expected = sum(np.cumsum(x) if x.sum() > 6 else x for x in X)
    np.testing.assert_allclose(jax.jit(lambda: lax.scan(step, jnp.zeros(4), X)[0])(), expected)


@pytest.mark.parametrize("method", ["sequential", "expand_dims", "broadcast_all"])
def test_vmap(library, method):
    kernel = cb.native(library.cumulative, kernel=True, result=lambda x: x, vmap_method=method)
    batch = np.stack([X, 2 * X, 3 * X])
    np.testing.assert_allclose(jax.jit(jax.vmap(kernel))(batch), np.cumsum(batch, axis=2))


def test_lanes_run_one_by_one_or_together(library):
    batch = np.zeros((5, 3, 2), np.float32)
    lane_by_lane = cb.native(library.describe, kernel=True, result=FOUR_INTS)
    np.testing.assert_array_equal(jax.vmap(lane_by_lane)(batch), [[11, 2, 6, 3]] * 5)
    nested = jax.vmap(jax.vmap(lane_by_lane, in_axes=1))(batch)
    np.testing.assert_array_equal(nested, np.tile([11, 1, 3, 3], (5, 2, 1)))


def test_an_argument_without_lanes_is_the_same_in_each(library):
    spec = jax.ShapeDtypeStruct((4,), jnp.float32)
    kernel = cb.native(library.both, kernel=True, result=(spec, spec))
    total, difference = jax.jit(jax.vmap(kernel, in_axes=(0, None)))(X, X[1])
    np.testing.assert_allclose(total, X + X[1])
    np.testing.assert_allclose(difference, X - X[1])


def test_pytrees_in_and_out(library):
    kernel = cb.native(
        library.both, kernel=True, result=lambda pair: {"added": pair["a"], "subtracted": pair["b"]}
    )
    results = jax.jit(kernel)({"a": X, "b": X})
    np.testing.assert_allclose(results["added"], 2 * X)
    np.testing.assert_allclose(results["subtracted"], 0 * X)


@pytest.mark.parametrize(
    ("dtype", "code"),
    [
        ("bool", 1),
        ("int8", 2),
        ("int16", 3),
        ("int32", 4),
        ("uint8", 6),
        ("uint16", 7),
        ("uint32", 8),
        ("float16", 10),
        ("float32", 11),
        ("complex64", 15),
        ("bfloat16", 16),
        ("int64", 5),
        ("uint64", 9),
        ("float64", 12),
        ("complex128", 18),
    ],
)
def test_codes_of_dtypes(library, dtype, code):
    with jax.enable_x64(True):
        seen = cb.native(library.describe, kernel=True, result=FOUR_INTS)(jnp.zeros((2, 3), dtype))
    np.testing.assert_array_equal(seen, [code, 2, 6, 2])


def test_scalars_and_empty_arrays(library):
    describe = cb.native(library.describe, kernel=True, result=FOUR_INTS)
    np.testing.assert_array_equal(describe(1.5), [11, 0, 1, -1])
    np.testing.assert_array_equal(describe(np.zeros((0, 3), np.int32)), [4, 2, 0, 0])


def test_user_data(library):
    factor = np.array([2], np.float32)
    kernel = cb.native(library.cumulative, kernel=True, result=lambda x: x, user_data=factor)
    call = jax.jit(kernel)
    np.testing.assert_allclose(call(X), 2 * np.cumsum(X, axis=1))
    factor[0] = 3  # the memory itself is the kernel's
    np.testing.assert_allclose(call(X), 3 * np.cumsum(X, axis=1))


def test_a_derivative_by_custom_jvp(cumulative):
    @jax.custom_jvp
    def linear(x):
        return cumulative(x)

    linear.defjvp(lambda primals, tangents: (linear(*primals), linear(*tangents)))
    _, tangent = jax.jit(lambda x: jax.jvp(linear, (x,), (jnp.ones_like(x),)))(X)
    np.testing.assert_allclose(tangent, np.cumsum(np.ones_like(X), axis=1))
    with pytest.raises(ValueError, match="Kernels do not support JVP. Give the call a derivative"):
        jax.grad(lambda x: cumulative(x).sum())(X)


# -- errors --------------------------------------------------------------------------------------------


def test_a_code_surfaces_with_the_kernels_name(cumulative, caplog):
    error = failure(lambda: jax.jit(cumulative)(jnp.float32(1)), caplog)
    assert error.code == 7
    assert "the kernel cumulative (" in str(error) and str(error).endswith(") returned 7")


def test_a_message_surfaces(cumulative, caplog):
    error = failure(lambda: jax.jit(cumulative)(jnp.arange(3)), caplog)
    assert error.code == 1
    assert str(error).endswith("returned 1: x must be float32")


def test_a_long_message_is_cut(library, caplog):
    talks = cb.native(library.talks, kernel=True, result=FLOAT)
    assert 1000 < str(failure(lambda: talks(1.0), caplog)).count("x") < 1100


def test_a_message_without_an_end_ends_with_its_room(library, caplog):
    shouts = cb.native(library.shouts, kernel=True, result=FLOAT)
    assert str(failure(lambda: shouts(1.0), caplog)).endswith(f"returned 3: {1024 * 'x'}")


def test_a_lane_that_fails(library, caplog):
    kernel = cb.native(library.fails_at_three, kernel=True, result=FLOAT)
    call = jax.jit(jax.vmap(kernel))
    assert failure(lambda: call(jnp.arange(5.0)), caplog).code == 42
    np.testing.assert_array_equal(call(jnp.arange(3.0)), [0, 1, 2])  # and the next call works
    scan = jax.jit(lambda x: lax.map(kernel, x))
    assert failure(lambda: scan(jnp.arange(5.0)), caplog).code == 42


def test_a_failure_with_pytrees_for_arguments(library, caplog):
    kernel = cb.native(library.talks, kernel=True, result=FLOAT)
    assert failure(lambda: kernel({"a": 1.0}), caplog).code == 1


def test_a_cpp_exception_surfaces(compile_c, caplog):
    throws = ctypes.CDLL(compile_c(THROWING, suffix=".cc")).throws
    kernel = cb.native(throws, kernel=True, result=FLOAT)
    assert str(failure(lambda: kernel(1.0), caplog)).endswith("returned 1: C++ exception: lost")


def test_what_is_wrong_when_it_is_wrapped(library):
    for result in ("broadcast", cb.infer, cb.like(0), 3):
        with pytest.raises(TypeError, match="the kernel describe .* needs result=.*lambda x: x"):
            cb.native(library.describe, kernel=True, result=result)
    with pytest.raises(TypeError, match="the kernel describe .* needs result="):
        cb.native(library.describe, kernel=True)
    with pytest.raises(TypeError, match="was given the signature .* every kernel has the one"):
        cb.native(library.describe, "int(int)", kernel=True, result=FLOAT)
    with pytest.raises(TypeError, match="takes no derivatives=; .*jax.custom_jvp"):
        cb.native(library.describe, kernel=True, result=FLOAT, derivative="central")
    with pytest.raises(ValueError, match="vmap_method must be one of"):
        cb.native(library.describe, kernel=True, result=FLOAT, vmap_method="parallel")
    declared = ctypes.CDLL(library._name).describe
    declared.restype, declared.argtypes = ctypes.c_double, [ctypes.c_double]
    with pytest.raises(TypeError, match="is declared as double .double., but a kernel is int"):
        cb.native(declared, kernel=True, result=FLOAT)
    declared.restype, declared.argtypes = ctypes.c_int, [ctypes.c_void_p]
    assert cb.native(declared, kernel=True, result=FOUR_INTS)(1.0).shape == (4,)


def test_dtypes_that_the_header_does_not_know(library):
    describe = cb.native(library.describe, kernel=True, result=FOUR_INTS)
    with pytest.raises(TypeError, match="argument 0 of the kernel describe .* has dtype int4"):
        describe(jnp.zeros(4, "int4"))
    with pytest.raises(TypeError, match="has dtype key<fry>"):
        describe(jax.random.key(0))
    wide = cb.native(library.describe, kernel=True, result=jax.ShapeDtypeStruct((4,), "int64"))
    with pytest.raises(ValueError, match="64-bit types when `jax_enable_x64` is disabled"):
        wide(1.0)


# -- programs ------------------------------------------------------------------------------------------


def test_equal_kernels_share_programs(library):
    def make():
        return cb.native(library.describe, kernel=True, result=FOUR_INTS)

    traces = [str(jax.make_jaxpr(make())(1.0)) for _ in range(2)]
    assert traces[0] == traces[1]
    functions = {make()._function for _ in range(2)}
    assert len(functions) == 1
    assert make()._function != cb.native(library.both, kernel=True, result=FLOAT)._function


def test_addresses_do_not_stand_in_programs(library, cumulative):
    text = jax.jit(cumulative).lower(X).as_text()
    address = ctypes.cast(library.cumulative, ctypes.c_void_p).value
    assert str(address) not in text and f"{address:x}" not in text


def test_in_shard_map_each_device_runs_its_part(library):
    mesh = jax.make_mesh((4,), ("i",), (jax.sharding.AxisType.Auto,), devices=devices(4))
    describe = cb.native(library.describe, kernel=True, result=FOUR_INTS)
    parts = jax.shard_map(describe, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i"))
    seen = jax.jit(parts)(np.zeros((8, 3), np.float32))
    np.testing.assert_array_equal(seen, [11, 2, 6, 2] * 4)


def test_in_a_distributed_program_it_runs_once_on_the_whole(cumulative):
    mesh = jax.make_mesh((4,), ("i",), (jax.sharding.AxisType.Auto,), devices=devices(4))
    x = np.ones((2, 8), np.float32)
    sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P(None, "i")))
    np.testing.assert_allclose(jax.jit(cumulative)(sharded), np.cumsum(x, axis=1))


def test_other_platforms_need_a_device_there(cumulative):
    if jax.default_backend() != "cpu":
        pytest.skip("it may be there")
    with pytest.raises(NotImplementedError, match="callbax.native of cumulative .*here for rocm: "):
        jax.jit(cumulative).trace(X).lower(lowering_platforms=("rocm",))
