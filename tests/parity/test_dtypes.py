"""Every dtype and every layout of arrays."""

import flavours
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import CALLBAX, both, both_in_any_order, both_raise, run, skip_unless_jax_has

pytestmark = pytest.mark.sampled(8)

NARROW = ["int2", "int4", "uint2", "uint4", "float4_e2m1fn"]
FLOAT8 = [
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
]
ORDINARY = [
    "bool",
    "int8",
    "int16",
    "int32",
    "uint8",
    "uint16",
    "uint32",
    "bfloat16",
    "float16",
    "float32",
    "complex64",
]
WIDE = ["int64", "uint64", "float64", "complex128"]
EVERY_DTYPE = pytest.mark.parametrize("name", ORDINARY + NARROW + FLOAT8 + WIDE)
SHAPES = pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)], ids=str)


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def values(name, shape):
    """Small numbers that every dtype has: 0 and 1, and 2 for floating point without zero."""
    size = int(np.prod(shape))
    numbers = np.arange(size) % 2 + (1 if name == "float8_e8m0fnu" else 0)
    return numbers.astype(np.float32).astype(dtype_of(name)).reshape(shape)


@EVERY_DTYPE
@SHAPES
def test_every_dtype_and_shape_goes_in_and_comes_out(name, shape):
    """int2/int4/uint2/uint4/float4_e2m1fn in and out; bfloat16, bool, complex; 0-d, zero-size."""
    skip_unless_jax_has(dtype_of(name))

    def program(library, record):
        def host(x):
            record.calls.append((x.dtype.name, x.shape, np.asarray(x).astype(complex).tolist()))
            return x

        spec = jax.ShapeDtypeStruct(shape, dtype_of(name))
        return jax.jit(lambda x: library.pure_callback(host, spec, x))(values(name, shape))

    with jax.enable_x64(name in WIDE):
        outcome = both(program)
    expected = values(name, shape)
    assert outcome.value.dtype == expected.dtype
    assert np.asarray(outcome.value).tobytes() == expected.tobytes()
    if expected.size:
        assert outcome.calls == [(name, shape, expected.astype(complex).tolist())]


@pytest.mark.parametrize("name", NARROW + ["float8_e4m3fn", "bfloat16", "bool", "complex64"])
@flavours.each(flavours.ALL)
def test_narrow_dtypes_through_every_flavour(name, call):
    """int2/int4/uint2/uint4/float4_e2m1fn in and out, through each flavour and without jit."""
    skip_unless_jax_has(dtype_of(name))

    @both
    def outcome(library, record):
        class Record:
            @staticmethod
            def seen(x):
                record.calls.append(np.asarray(x).astype(complex).tolist())

            def __call__(self, x):
                self.seen(x)
                return x

        return call(library, Record(), jnp.asarray(values(name, (5,))))

    assert outcome.calls == [values(name, (5,)).astype(complex).tolist()]


@EVERY_DTYPE
@pytest.mark.parametrize("lane", [(), (3,)], ids=["scalar lanes", "odd lanes"])
def test_every_dtype_under_sequential_vmap_with_odd_lanes(name, lane):
    """Lanes of sub-byte types need not start at a byte of the packed array."""
    skip_unless_jax_has(dtype_of(name))

    def program(library, record):
        def host(x):
            record.calls.append(np.asarray(x).astype(complex).tolist())
            return x

        def lane_of(x):
            spec = jax.ShapeDtypeStruct(lane, x.dtype)
            return library.pure_callback(host, spec, x, vmap_method="sequential")

        return jax.jit(jax.vmap(lane_of))(batch)

    batch = values(name, (5, *lane))
    with jax.enable_x64(name in WIDE):
        outcome = both(program)
    assert np.asarray(outcome.value).tobytes() == batch.tobytes()
    assert outcome.calls == batch.astype(complex).tolist()


LAYOUTS = {
    "fortran order": lambda x: np.asfortranarray(x),
    "transposed": lambda x: x.T.copy().T,
    "reversed": lambda x: x[::-1].copy()[::-1],
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "read only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "unaligned": lambda x: _unaligned(x),
    "jax array": jnp.asarray,
}


def _unaligned(x):
    raw = np.empty(x.nbytes + 1, np.uint8)[1:]
    raw[:] = np.frombuffer(x.tobytes(), np.uint8)
    return raw.view(x.dtype).reshape(x.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.complex64])
def test_results_of_any_layout(layout, dtype):
    """Fortran-ordered, strided and byte-swapped results."""
    expected = np.arange(6).reshape(2, 3).astype(dtype)

    @both
    def outcome(library, record):
        result = LAYOUTS[layout](expected)
        spec = jax.ShapeDtypeStruct((2, 3), dtype)
        return jax.jit(lambda: library.pure_callback(lambda: result, spec))()

    assert np.asarray(outcome.value).tolist() == expected.tolist()


def test_results_that_broadcast_one_element():
    """Any layout of the result: an axis with stride 0."""

    @both
    def outcome(library, record):
        spec = jax.ShapeDtypeStruct((2, 3), np.float32)
        result = np.broadcast_to(np.float32(7), (2, 3))
        return jax.jit(lambda: library.pure_callback(lambda: result, spec))()

    assert outcome.value.tolist() == [[7.0] * 3] * 2


@pytest.mark.parametrize("name", NARROW + ["bfloat16"])
def test_fortran_ordered_results_of_narrow_dtypes(name):
    """Packed sub-byte results of any layout."""
    skip_unless_jax_has(dtype_of(name))
    expected = values(name, (3, 5))

    @both
    def outcome(library, record):
        spec = jax.ShapeDtypeStruct((3, 5), expected.dtype)
        return jax.jit(lambda: library.pure_callback(lambda: np.asfortranarray(expected), spec))()

    assert np.asarray(outcome.value).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.complex64])
def test_byte_swapped_results(dtype):
    """Byte-swapped results are values like any other (JAX refuses them)."""
    expected = np.arange(6).astype(dtype)

    def program(library, record):
        result = expected.astype(expected.dtype.newbyteorder(">"))
        spec = jax.ShapeDtypeStruct((6,), dtype)
        return jax.jit(lambda: library.pure_callback(lambda: result, spec))()

    outcome = run(CALLBAX, program)
    assert outcome.error is None
    assert np.asarray(outcome.value).tolist() == expected.tolist()


def keys_through(flavour, library, record, keys):
    """The key data of `keys`, seen by a callback."""

    def host(keys):
        record.calls.append((keys.dtype.name, np.asarray(keys).tolist()))
        return None if flavour == "debug" else keys

    data = jax.random.key_data(keys)
    if flavour == "pure":
        return library.pure_callback(host, data, keys, vmap_method="sequential")
    if flavour == "io":
        return library.io_callback(host, data, keys)
    library.debug.callback(host, keys)
    return data


KEYS = jax.random.split(jax.random.key(3), 2)
KEY_DATA = np.asarray(jax.random.key_data(KEYS)).tolist()


@pytest.mark.parametrize("flavour", ["pure", "io", "debug"])
def test_prng_keys_arrive_as_their_key_data(flavour):
    """PRNG keys arrive as uint32 key data."""

    @both
    def outcome(library, record):
        return jax.jit(lambda keys: keys_through(flavour, library, record, keys))(KEYS)

    assert outcome.value.tolist() == KEY_DATA
    assert outcome.calls == [("uint32", KEY_DATA)]


@pytest.mark.parametrize("flavour", ["pure", "io", "debug"])
def test_prng_keys_arrive_as_their_key_data_under_vmap(flavour):
    """PRNG keys arrive as uint32 key data, each lane its own."""

    @both_in_any_order
    def outcome(library, record):
        lane = jax.vmap(lambda keys: keys_through(flavour, library, record, keys))
        return jax.jit(lane)(KEYS)

    assert outcome.value.tolist() == KEY_DATA
    assert outcome.calls == [("uint32", row) for row in KEY_DATA]


@pytest.mark.parametrize("flavour", ["pure", "io", "debug"])
def test_prng_keys_arrive_as_their_key_data_without_jit(flavour):
    """PRNG keys arrive as uint32 key data (JAX's eager debug callback gets the keys themselves)."""
    outcome = run(CALLBAX, lambda library, record: keys_through(flavour, library, record, KEYS))
    assert outcome.error is None
    assert outcome.calls == [("uint32", KEY_DATA)]


FLOAT0 = np.dtype(jax.dtypes.float0)


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_float0_result_takes_a_float0_array(transform, flavour):
    """Results: `np.asarray`, of the dtype that was declared."""

    @both
    def outcome(library, record):
        like = np.zeros((3,), FLOAT0)
        x = jnp.float32(2)

        def f(x):
            return getattr(library, flavour)(
                lambda x: (record(x), like, np.float32(5)),
                (x, jax.ShapeDtypeStruct((3,), FLOAT0), x),
                x,
            )

        first, empty, last = transform(f)(x)
        return first, empty.dtype == FLOAT0, empty.shape, last

    assert outcome.value == (2.0, True, (3,), 5.0)


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
@pytest.mark.parametrize("shape", [(), (3,), (0,)], ids=str)
def test_float0_results_alone_and_in_batches(flavour, shape):
    @both
    def outcome(library, record):
        method = {"vmap_method": "sequential"} if flavour == "pure_callback" else {}

        def f(x):
            struct = jax.ShapeDtypeStruct(shape, FLOAT0)
            callback = getattr(library, flavour)
            return callback(lambda x: np.zeros(shape, FLOAT0), struct, x, **method)

        single, lanes = f(1.0), jax.vmap(f)(jnp.arange(2.0))
        return [(y.dtype == FLOAT0, y.shape) for y in (single, lanes)]

    assert outcome.value == [(True, shape), (True, (2, *shape))]


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
@pytest.mark.parametrize(
    ("declared", "returned"),
    [(FLOAT0, bool), (FLOAT0, np.float32), (bool, FLOAT0)],
    ids=["bool for float0", "float32 for float0", "float0 for bool"],
)
def test_float0_is_neither_given_nor_taken_for_another_dtype(flavour, declared, returned):
    def program(library, record):
        struct = jax.ShapeDtypeStruct((3,), declared)
        return getattr(library, flavour)(lambda: np.zeros(3, returned), struct)

    if flavour == "pure_callback" and declared == FLOAT0 and jax.default_backend() != "cpu":
        pytest.skip("JAX does not look at results without data, which carry the failure")
    phrase = f"Expected: {np.dtype(declared)}, Actual: {np.dtype(returned)}"
    both_raise(program, jax.errors.JaxRuntimeError, phrase)


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
def test_float0_arguments_arrive_as_booleans(flavour):
    @both
    def outcome(library, record):
        def host(x, empty):
            record.calls.append((str(empty.dtype), empty.shape))
            return np.asarray(x)

        return jax.jit(lambda x: getattr(library, flavour)(host, x, x, np.zeros(3, FLOAT0)))(1.0)

    assert outcome.calls == [("bool", (3,))]
