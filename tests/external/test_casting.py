"""Which results of another dtype than the promised one are converted."""

import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import callbax as cb
from callbax._host.call import HostCall
from callbax._host.function import Hashable
from callbax._host.results import convert_results
from callbax._host.structure import Structure

DTYPES = [
    *("bool", "uint2", "int4", "int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"),
    *("float8_e4m3fn", "bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
]
INTEGERS, INEXACT = DTYPES[:10], DTYPES[10:]


def converted(value, dtype, casting="safe", canonicalize=False):
    """The converted result, or None if it is refused."""
    call = HostCall(Hashable(len), Structure(jax.tree.structure(((), {}))))
    try:
        [result] = convert_results(
            call, value, [np.shape(value)], [jnp.dtype(dtype)], canonicalize, casting
        )
    except cb.CallbackError:
        return None
    assert result.dtype == jnp.dtype(dtype)
    return result


@pytest.mark.parametrize("comes", DTYPES)
@pytest.mark.parametrize("promised", DTYPES)
def test_arrays_widen(comes, promised):
    values = np.array([0, 1, 1]).astype(jnp.dtype(comes))
    result = converted(values, promised)
    safe = np.can_cast(jnp.dtype(comes), jnp.dtype(promised), "safe")
    assert (result is not None) == (safe or (comes in INTEGERS and promised in INEXACT))
    if result is not None:
        np.testing.assert_array_equal(result.astype(complex), values.astype(complex))
    assert (converted(values, promised, "none") is not None) == (comes == promised)


@pytest.mark.parametrize(
    "value, dtype, fits",
    [
        (2**24, "float32", True),
        (2**24 + 1, "float32", False),
        (2**24 + 2, "float32", True),
        (-(2**31), "float32", True),
        (2**53 + 1, "float32", False),
        (2**62, "complex64", False),  # float64 has it, but not all of its neighbours
        (2**11 + 1, "float16", False),
        (70000, "float16", False),
        (257, "bfloat16", False),
        (2**24 + 1, "complex64", False),
        (2**24 + 1, "float64", True),
        (2**62 + 1, "float64", True),  # NumPy calls it safe
    ],
)
def test_integers_become_floating_point_where_they_stay_themselves(value, dtype, fits):
    for canonicalize in (False, True):
        result = converted(np.int64([0, value]), dtype, canonicalize=canonicalize)
        assert (result is not None) == fits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [True, 1, -1, 100, 0.1, 1j])
def test_pythons_numbers_are_promoted_as_in_jax(value, dtype):
    """They take the dtype of an array, where the result of both is of its dtype in JAX."""
    with jax.enable_x64(True):
        array = jnp.zeros((), dtype)
        try:
            keeps = jnp.result_type(array, value) == array.dtype
        except jax.dtypes.TypePromotionError:  # of four bits and floating point
            keeps = False
        if type(value) is int and dtype in INTEGERS and dtype != "bool":
            # JAX lets them wrap around.
            keeps = keeps and jnp.iinfo(dtype).min <= value <= jnp.iinfo(dtype).max
        ours = converted(value, dtype)
        assert (ours is not None) == keeps
        if keeps:
            theirs = np.asarray(jnp.asarray(value, dtype))
            assert ours.astype(complex) == theirs.astype(complex)


def test_pythons_integers_of_any_size():
    assert converted(2**70, "float32") == np.float32(2.0**70)
    assert converted(2**70, "bfloat16") is not None
    assert converted(2**70, "int64") is None
    assert converted(10**400, "float32") is None
    assert converted(300, "uint8") is None
    assert converted(2**31, "int32") is None and converted(2**31 - 1, "int32") == 2**31 - 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize("vmap_method", ["sequential", "threads"])
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(
    "value, promised, x64_only",
    [
        (1, "float32", False),
        (True, "float32", False),
        (0.5, "float32", False),
        (0.5, "bfloat16", False),
        (2, "complex64", False),
        (-3, "int32", False),
        (3, "int4", False),
        (np.int64(7), "float32", False),
        (np.bool_(True), "float32", False),
        (np.float16(0.5), "float32", False),
        (np.float32(0.5), "complex64", False),
        (np.array(3, jnp.int4), "int8", False),
        (np.array(0.5, jnp.bfloat16), "float32", False),
        (2**40, "float64", True),
        (np.float32(0.5), "float64", True),
        (np.float64(0.5), "complex128", True),
    ],
)
def test_results_widen_on_every_route(value, promised, x64_only, x64, vmap_method):
    if x64_only and not x64:
        pytest.skip("JAX has no such dtype")
    with jax.enable_x64(x64):
        struct = jax.ShapeDtypeStruct((), jnp.dtype(promised))
        f = cb.external(lambda x: value, result=struct, vmap_method=vmap_method)
        single, lanes = jax.jit(f)(0.0), jax.jit(jax.vmap(f))(jnp.zeros(3))
        assert single.dtype == lanes.dtype == jnp.dtype(promised)
        expected = np.asarray(value).astype(complex)
        assert np.asarray(single).astype(complex) == expected
        assert (np.asarray(lanes).astype(complex) == expected).all()


@pytest.mark.parametrize("vmap_method", ["sequential", "threads"])
@pytest.mark.parametrize(
    "value, promised",
    list(
        itertools.chain(
            [(v, "float32") for v in (np.float64(0.1), np.complex64(1), 1j, np.int32(2**24 + 1))],
            [(v, "int32") for v in (0.5, np.float32(1), np.int64(1), 2**31)],
            [(v, "bool") for v in (1, 0.0, np.int8(1))],
            [(v, "complex64") for v in (np.float64(0.1), np.complex128(1j))],
        )
    ),
)
def test_what_would_lose_something_is_refused(value, promised, vmap_method, caplog):
    caplog.set_level(logging.CRITICAL + 1, "callbax")
    with jax.enable_x64(True):
        struct = jax.ShapeDtypeStruct((), jnp.dtype(promised))
        f = cb.external(lambda x: value, result=struct, vmap_method=vmap_method)
        for call in (jax.jit(f), lambda x: jax.vmap(f)(x[None])):
            with pytest.raises(jax.errors.JaxRuntimeError, match=f"Expected: {promised}, Actual: "):
                jax.block_until_ready(call(jnp.zeros(())))


def test_eigenvalues_that_happen_to_be_real():
    f = cb.external(np.linalg.eig, signature="(n,n)->(n),(n,n)", dtype=jnp.complex64)
    matrices = jnp.stack([jnp.array([[0.0, -1.0], [1.0, 0.0]]), jnp.diag(jnp.array([2.0, 3.0]))])
    values, vectors = jax.jit(f)(matrices)
    np.testing.assert_allclose(matrices @ vectors, values[:, None] * vectors, atol=1e-6)


@pytest.mark.parametrize("canonicalize", [False, True])
@pytest.mark.parametrize("casting", ["safe", "same_kind"])
@pytest.mark.parametrize("value", [2**31, -(2**40), 2**70])
def test_python_integers_do_not_wrap_around(value, casting, canonicalize):
    assert converted(value, "int32", casting, canonicalize) is None


@pytest.mark.parametrize("method", ["sequential", "threads"])
def test_a_masked_scalar_is_the_same_everywhere(method):
    def masked(x):
        return np.ma.masked_array(x, mask=True)

    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    function = cb.external(masked, result=scalar, vmap_method=method)
    assert function(np.float32(7)) == 7
    assert jax.vmap(function)(np.float32([7, 8])).tolist() == [7, 8]
