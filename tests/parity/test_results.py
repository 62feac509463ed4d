"""Results: what a callback may give back, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CALLBAX, EAGER_AND_JIT, both, both_raise, run

import callbax

FLOATS = jax.ShapeDtypeStruct((2,), np.float32)
RuntimeFailure = jax.errors.JaxRuntimeError

PURE_AND_IO = pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])


class ArrayLike:
    """An object that NumPy can convert."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1, 2], np.float32)


@PURE_AND_IO
@EAGER_AND_JIT
@pytest.mark.parametrize(
    "returned",
    [[1.0, 2.0], (1.0, 2.0), ArrayLike(), np.array([1.0, 2.0]), jnp.array([1.0, 2.0])],
    ids=["list of floats", "tuple of floats", "object with __array__", "float64", "jax array"],
)
def test_results_are_converted_and_canonicalised(flavour, transform, returned):
    """Literals, objects with `__array__`, float64 to float32 while x64 is off are fine."""
    if isinstance(returned, (list, tuple)):
        returned = np.asarray(returned)  # a list is a pytree of two results

    @both
    def outcome(library, record):
        callback = getattr(library, flavour)
        return transform(lambda: callback(lambda: returned, FLOATS))()

    assert outcome.value.dtype == np.float32
    assert outcome.value.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("returned", "dtype"),
    [(2.5, np.float32), (3, np.int32), (True, np.bool_), (1 + 2j, np.complex64)],
)
@EAGER_AND_JIT
def test_python_literals_are_results(transform, returned, dtype):
    """Results: `np.asarray`, then canonicalised. Python literals are fine."""

    @both
    def outcome(library, record):
        spec = jax.ShapeDtypeStruct((), dtype)
        return transform(lambda: library.pure_callback(lambda: returned, spec))()

    assert outcome.value.dtype == dtype
    assert outcome.value.tolist() == returned


@PURE_AND_IO
@EAGER_AND_JIT
@pytest.mark.parametrize("returned", [np.array([1, 2]), np.array([True, False])])
def test_int_for_a_float_result_is_an_error(flavour, transform, returned):
    """An int for a float32 result is an error."""

    def program(library, record):
        callback = getattr(library, flavour)
        return transform(lambda: callback(lambda: returned, FLOATS))()

    both_raise(
        program, RuntimeFailure, "Incorrect output dtype for return value #0: Expected: float32"
    )


@EAGER_AND_JIT
def test_float64_for_float32_is_an_error_with_x64(transform):
    """With x64 on, float64 for float32 is an error ("Incorrect output dtype…")."""

    def program(library, record):
        return transform(lambda: library.pure_callback(lambda: np.array([1.0, 2.0]), FLOATS))()

    with jax.enable_x64(True):
        both_raise(
            program,
            RuntimeFailure,
            "Incorrect output dtype for return value #0: Expected: float32, Actual: float64",
        )


@pytest.mark.parametrize("x64", [False, True])
def test_results_are_narrowed_as_where_the_program_was_traced(x64):
    """It may be lowered under another setting of x64."""
    x = np.float32(1)
    half = jax.jit(lambda x: callbax.pure_callback(lambda x: np.float64(x) / 2, x, x))
    with jax.enable_x64(x64):
        traced = half.trace(x)
    with jax.enable_x64(not x64):
        lowered = traced.lower()
    if x64:
        with pytest.raises(RuntimeError, match="Expected: float32, Actual: float64"):
            lowered.compile()(x).block_until_ready()
    else:
        assert lowered.compile()(x) == 0.5


@PURE_AND_IO
@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint64, np.complex128])
def test_64_bit_results_with_x64(flavour, dtype):
    """With x64 on, 64-bit arguments and results are ordinary."""

    def program(library, record):
        spec = jax.ShapeDtypeStruct((2,), dtype)
        callback = getattr(library, flavour)
        return jax.jit(lambda x: callback(record, spec, x))(np.array([1, 2], dtype))

    with jax.enable_x64(True):
        outcome = both(program)
    assert outcome.value.dtype == dtype
    assert outcome.calls == [[1, 2]]


@PURE_AND_IO
@EAGER_AND_JIT
def test_wrong_number_of_results_is_an_error(flavour, transform):
    """Errors: "Mismatched number of outputs from callback. Expected: …, Actual: …"."""

    def program(library, record):
        callback = getattr(library, flavour)
        return transform(lambda: callback(lambda: (np.float32(1),) * 3, (FLOATS, FLOATS)))()

    both_raise(
        program,
        RuntimeFailure,
        "Mismatched number of outputs from callback. Expected: 2, Actual: 3",
    )


@PURE_AND_IO
@EAGER_AND_JIT
def test_wrong_shape_of_a_result_is_an_error(flavour, transform):
    """Errors: "Incorrect output shape for return value #i: Expected: …, Actual: …"."""

    def program(library, record):
        callback = getattr(library, flavour)
        good, bad = np.ones(2, np.float32), np.ones(3, np.float32)
        return transform(lambda: callback(lambda: (good, bad), (FLOATS, FLOATS)))()

    both_raise(
        program,
        RuntimeFailure,
        "Incorrect output shape for return value #1: Expected: (2,), Actual: (3,)",
    )


def returns_a_scalar():
    return np.float32(0)


def test_messages_name_the_callback_and_say_what_to_do():
    """Ours keep JAX's phrases and add the callback's name and what to do."""
    outcome = run(CALLBAX, lambda library, _: library.pure_callback(returns_a_scalar, FLOATS))
    assert isinstance(outcome.error, RuntimeError)
    message = str(outcome.error)
    assert "Incorrect output shape for return value #0: Expected: (2,), Actual: ()" in message
    assert f"returns_a_scalar ({__file__}:" in message
    assert "reshape the result, or change result_shape_dtypes" in message


@PURE_AND_IO
def test_checks_go_over_flat_leaves(flavour):
    """Checks go over flat leaves: a list for a tuple passes."""

    @both
    def outcome(library, record):
        callback = getattr(library, flavour)
        ones = np.ones(2, np.float32)
        return jax.jit(lambda: callback(lambda: [[ones], ones + 1], (FLOATS, FLOATS)))()

    assert isinstance(outcome.value, tuple)
    assert [x.tolist() for x in outcome.value] == [[1, 1], [2, 2]]


@EAGER_AND_JIT
@pytest.mark.parametrize("ordered", [False, True])
def test_a_value_for_no_result_is_an_error(transform, ordered):
    """`io_callback(f, None)` fails if f returns a value."""

    def program(library, record):
        transform(lambda: library.io_callback(lambda: 1.0, None, ordered=ordered))()

    both_raise(
        program,
        RuntimeFailure,
        "Mismatched number of outputs from callback. Expected: 0, Actual: 1",
    )


@PURE_AND_IO
@EAGER_AND_JIT
def test_none_for_two_results_is_an_error(flavour, transform):
    """Returning None for two results fails."""

    def program(library, record):
        callback = getattr(library, flavour)
        return transform(lambda: callback(lambda: None, (FLOATS, FLOATS)))()

    both_raise(
        program,
        RuntimeFailure,
        "Mismatched number of outputs from callback. Expected: 2, Actual: 0",
    )


@PURE_AND_IO
@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint64, np.complex128])
def test_64_bit_spec_without_x64_is_an_error_at_trace_time(flavour, dtype):
    """A 64-bit result spec while x64 is off: ValueError at trace time."""

    def program(library, record):
        callback = getattr(library, flavour)
        spec = {"a": FLOATS, "b": jax.ShapeDtypeStruct((), dtype)}
        return jax.make_jaxpr(lambda x: callback(record, spec, x))(1.0)

    outcome = both_raise(
        program,
        ValueError,
        "result_shape_dtypes cannot specify 64-bit types when `jax_enable_x64` is disabled",
    )
    assert outcome.calls == []


@PURE_AND_IO
@pytest.mark.parametrize(
    "spec",
    [
        FLOATS,
        jax.typeof(np.ones(2, np.float32)),
        np.ones(2, np.float32),
        jnp.ones(2),
        None,
        (),
        {"a": FLOATS, "b": [jnp.ones(2), None, (FLOATS,)]},
    ],
    ids=["struct", "aval", "numpy array", "jax array", "none", "empty", "tree"],
)
def test_kinds_of_result_spec(flavour, spec):
    """A spec may be ShapeDtypeStruct, ShapedArray, an array, None, or any pytree of these."""

    @both
    def outcome(library, record):
        callback = getattr(library, flavour)
        value = jax.tree.map(lambda _: np.ones(2, np.float32), spec)
        return jax.jit(lambda x: callback(record.of(lambda x: value), spec, x))(1.0)

    assert jax.tree.structure(outcome.value) == jax.tree.structure(spec)
    assert all(leaf.tolist() == [1.0, 1.0] for leaf in jax.tree.leaves(outcome.value))


@PURE_AND_IO
@pytest.mark.parametrize("transform", [jax.jit, jax.vmap], ids=["jit", "vmap"])
def test_a_tracer_is_a_result_spec(flavour, transform):
    """A spec may be a tracer."""

    @both_with_method(flavour)
    def outcome(callback, record):
        return transform(lambda x: callback(record, x, x))(jnp.arange(2.0))

    assert outcome.value.tolist() == [0.0, 1.0]


def both_with_method(flavour):
    """Runs the program with the flavour, its lanes one by one under vmap."""
    options = {"vmap_method": "sequential"} if flavour == "pure_callback" else {}

    def decorate(program):
        return both(
            lambda library, record: program(
                lambda *args: getattr(library, flavour)(*args, **options), record
            )
        )

    return decorate
