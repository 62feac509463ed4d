"""cb.ufunc: the values, types and shapes are NumPy's and SciPy's, mapped to JAX's world."""

import pickle

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
import scipy.special
from jax import export

import callbax as cb

pytestmark = pytest.mark.sampled(4)

UFUNCS = [
    *(np.add, np.subtract, np.divide, np.floor_divide, np.sin, np.exp, np.log1p, np.arctan2),
    *(np.hypot, np.logaddexp, np.copysign, np.nextafter, np.spacing, np.frexp, np.modf, np.divmod),
    *(np.isfinite, np.signbit, np.less, np.logical_xor, np.gcd, np.lcm, np.bitwise_count),
    *(np.left_shift, np.invert, np.conjugate, np.absolute, np.sqrt, np.rint, np.float_power),
    *(scipy.special.jv, scipy.special.kve, scipy.special.gammaln, scipy.special.gammainc),
    *(scipy.special.airy, scipy.special.ellipj, scipy.special.expi, scipy.special.erfcx),
    *(scipy.special.hyp2f1, scipy.special.betainc, scipy.special.huber, scipy.special.sici),
    *(scipy.special.eval_legendre, scipy.special.eval_hermite, scipy.special.expn),
    *(scipy.special.struve, scipy.special.ndtri, scipy.special.wofz, scipy.special.bdtr),
    *(scipy.special.smirnov, scipy.special.kolmogorov, scipy.special.pdtrik),
]
DTYPES = ["bool", "int32", "int64", "uint8", "float32", "float64", "complex64", "complex128"]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-40, 1e30, np.inf, -np.inf, np.nan]


def arguments(ufunc, dtype, seed=0):
    random = np.random.default_rng(seed)
    for _ in range(ufunc.nin):
        values = random.permutation(np.concatenate([SPECIAL, random.uniform(-3, 3, 150)]))
        if ufunc is scipy.special.wofz:
            values[values == 1e-40] = 0  # XLA makes real numbers complex, and flushes denormals
        if np.dtype(dtype).kind == "c":
            values = values + 1j * random.permutation(np.where(np.isfinite(values), values, 7))
        if np.dtype(dtype).kind in "biu":
            values = random.integers(0, 7, len(values))
        with np.errstate(all="ignore"):
            yield values.astype(dtype)


def same_bits(ours, theirs):
    ours, theirs = (x if isinstance(x, tuple) else (x,) for x in (ours, theirs))
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        our = np.asarray(our)
        assert our.dtype == their.dtype
        assert our.shape == their.shape
        assert our.tobytes() == np.ascontiguousarray(their).tobytes() or (
            # The sign and payload of a NaN are nobody's promise.
            np.array_equal(our, their, equal_nan=True)
            and np.array_equal(np.signbit(our.real[our == our]), np.signbit(their.real[our == our]))
        )


# SciPy warns, inside of some loops, that they truncate to integers.
TRUNCATES = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")


@TRUNCATES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda u: u.__name__)
def test_values_are_the_originals_bit_for_bit(ufunc, dtype):
    args = list(arguments(ufunc, dtype))
    with np.errstate(all="ignore"):
        try:
            expected = ufunc(*args)
        except TypeError:
            with jax.enable_x64(True), pytest.raises(TypeError, match="has no loop for arguments"):
                cb.ufunc(ufunc)(*args)
            return
    kinds = {x.dtype.kind for x in (expected if isinstance(expected, tuple) else (expected,))}
    if dtype in ("bool", "int32", "uint8") and kinds & {"f", "c"}:
        pytest.skip("NumPy takes a float16, float32 or float64 loop for these, JAX always float32")
    with jax.enable_x64(True):
        same_bits(cb.ufunc(ufunc)(*args), expected)


@TRUNCATES
@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda u: u.__name__)
def test_without_x64_the_float32_loop_is_taken(ufunc):
    if "ff" not in ufunc.types[0] and not any(t.startswith("f" * ufunc.nin) for t in ufunc.types):
        pytest.skip("no float32 loop")
    args = list(arguments(ufunc, "float32"))
    with np.errstate(all="ignore"):
        expected = ufunc(*args)
    results = cb.ufunc(ufunc)(*(x.astype("float64") for x in args))
    assert not any(x.dtype.itemsize == 8 for x in jax.tree.leaves(results) if x.dtype.kind == "f")
    if not any(x.dtype.itemsize == 8 for x in jax.tree.leaves(expected)):
        same_bits(results, expected)


def test_a_loop_that_exists_in_double_only_computes_in_double():
    x = np.linspace(0.1, 2, 1000, dtype=np.float32)
    f = numba.vectorize(["float64(float64)"])(lambda x: x * x * 1.1)
    result = cb.ufunc(f)(x)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, f(x.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_small_floats_compute_in_float32_and_come_back(dtype):
    x = jnp.linspace(0.5, 4, 50).astype(dtype)
    result = cb.ufunc(scipy.special.jv)(1, x)
    assert result.dtype == x.dtype
    expected = scipy.special.jv(np.float32(1), np.asarray(x.astype(jnp.float32)))
    np.testing.assert_array_equal(result.astype(jnp.float32), jnp.asarray(expected).astype(dtype))


@pytest.mark.parametrize("x64", [False, True])
def test_integers_promote_as_in_jax(x64):
    with jax.enable_x64(x64):
        jv, default = cb.ufunc(scipy.special.jv), np.float64 if x64 else np.float32
        ints = jnp.arange(3, dtype=jnp.int32)
        assert jv(ints, ints).dtype == jnp.sin(ints).dtype
        assert jv(*[jnp.arange(3)] * 2).dtype == default
        assert jv(ints, jnp.ones(3, jnp.float32)).dtype == np.float32
        assert jv(ints, jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
        assert jv(ints, jnp.ones(3, jnp.complex64)).dtype == np.complex64
        assert cb.ufunc(np.gcd)(ints, 4).dtype == np.int32
        assert cb.ufunc(np.divide)(ints, ints).dtype == jnp.divide(ints, ints).dtype
        assert cb.ufunc(np.sin)(jnp.ones(3, jnp.int8)).dtype == jnp.sin(jnp.ones(3, jnp.int8)).dtype


def test_unsigned_numbers_keep_their_value_where_a_loop_reads_64_bits():
    a, b = np.array([-1, 5], np.int32), np.array([2**32 - 1, 3], np.uint32)
    for ufunc in (np.greater, np.maximum, np.less_equal):
        expected = ufunc(a, b)
        ours = jax.jit(jax.vmap(cb.ufunc(ufunc)))(a, b)
        np.testing.assert_array_equal(ours, expected.astype(ours.dtype))


@pytest.mark.parametrize("ufunc", [np.logical_and, np.logical_or, np.logical_xor])
def test_an_imaginary_number_is_true(ufunc):
    a, b = np.array([1j, 0, 1j]), np.array([1, 2, 0])
    np.testing.assert_array_equal(cb.ufunc(ufunc)(a, b), ufunc(a, b))
    np.testing.assert_array_equal(cb.ufunc(ufunc)(b, a), ufunc(b, a))


def test_integer_arguments_of_mixed_loops_stay_integers():
    n, x = np.arange(5, dtype=np.int32), np.float32([0.3] * 5)
    result = cb.ufunc(scipy.special.eval_legendre)(n, x)
    assert result.dtype == np.float32
    expected = scipy.special.eval_legendre(n.astype(np.int64), x.astype(np.float64))
    np.testing.assert_array_equal(result, expected.astype(np.float32))


@pytest.mark.parametrize("x64", [False, True])
def test_python_scalars_do_not_widen(x64):
    with jax.enable_x64(x64):
        jv = cb.ufunc(scipy.special.jv)
        assert jv(1, jnp.float32(2)).dtype == np.float32
        assert jv(1.5, jnp.float16(2)).dtype == np.float16
        assert cb.ufunc(scipy.special.eval_legendre)(2, jnp.float32(0.3)).dtype == np.float32
        for u, j in ((np.sin, jnp.sin), (np.negative, jnp.negative)):
            for x in (1.5, 1 + 2j):
                assert cb.ufunc(u)(x).dtype == j(x).dtype
                assert cb.ufunc(u)(x).weak_type == j(x).weak_type
        assert not cb.ufunc(np.add)(1.0, jnp.float32(2)).weak_type


def test_a_weakly_typed_carry_of_scan_keeps_its_type():
    jv = cb.ufunc(scipy.special.jv)
    carry, _ = jax.lax.scan(lambda c, _: (jv(1, c), None), 1.0, length=3)
    expected = np.float32(1)
    for _ in range(3):
        expected = scipy.special.jv(np.float32(1), expected)
    assert carry == expected


@hypothesis.given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, min_side=0, max_side=4)
)
def test_arguments_broadcast(shapes):
    args = [np.arange(np.prod(s), dtype=np.float32).reshape(s) for s in shapes.input_shapes]
    fma = numba_fma()
    result = jax.jit(cb.ufunc(fma))(*args)
    assert result.shape == shapes.result_shape
    np.testing.assert_array_equal(result, fma(*args))


@hypothesis.given(
    batched=st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any),
    ranks=st.tuples(*[st.integers(0, 2)] * 3),
    axis=st.integers(0, 2),
)
def test_vmap_is_a_loop_over_lanes(batched, ranks, axis):
    fma, lanes = numba_fma(), 3
    args, axes = [], []
    for has, rank in zip(batched, ranks, strict=True):
        shape = [2, 4][2 - rank :]
        position = min(axis, rank)
        axes.append(position if has else None)
        shape = shape[:position] + [lanes] * has + shape[position:]
        args.append(np.random.default_rng(rank).normal(size=shape).astype(np.float32))
    result = jax.vmap(cb.ufunc(fma), in_axes=tuple(axes))(*args)
    expected = [
        fma(*(a if d is None else np.take(a, i, d) for a, d in zip(args, axes, strict=True)))
        for i in range(lanes)
    ]
    np.testing.assert_array_equal(result, np.stack(expected))


_FMA = []


def numba_fma():
    if not _FMA:
        types = ["float32(float32,float32,float32)", "float64(float64,float64,float64)"]
        _FMA.append(numba.vectorize(types)(lambda x, y, z: x * y + z))
    return _FMA[0]


def test_large_arrays_of_each_way_of_conversion():
    """More than one chunk, and more than one block of a conversion."""
    x = np.random.default_rng(0).uniform(0, 20, 300_001).astype(np.float32)
    double_only = numba.vectorize(["float64(float64,float64)"])(lambda x, y: (x * x + y * y) ** 0.5)
    for f in (double_only, scipy.special.jv, np.add):
        for y in (np.float32(2), x[::-1].copy()):
            with jax.enable_x64(False):
                result = cb.ufunc(f)(y, x)
            np.testing.assert_array_equal(result, f(y, x).astype(np.float32))


def test_denormals_are_ordinary_numbers():
    tiny = np.float32([1e-40, -1e-42])
    same_bits(cb.ufunc(np.spacing)(tiny), np.spacing(tiny))
    same_bits(jax.jit(cb.ufunc(np.negative))(tiny), -tiny)
    double_only = numba.vectorize(["float64(float64)"])(lambda x: 2 * x)
    np.testing.assert_array_equal(np.asarray(cb.ufunc(double_only)(tiny)), 2 * tiny)


def test_inside_control_flow():
    jv = cb.ufunc(scipy.special.jv)
    x = jnp.linspace(0, 3, 7)

    @jax.jit
    def program(x):
        x = jax.lax.cond(x.sum() > 0, lambda: jv(0, x), lambda: x)
        x = jax.lax.fori_loop(0, 3, lambda i, x: jv(i, x), x)
        return jax.lax.map(lambda z: jv(2, z), x)

    expected = scipy.special.jv(np.float32(0), np.asarray(x))
    for i in (0, 1, 2, 2):
        expected = scipy.special.jv(np.float32(i), expected)
    np.testing.assert_array_equal(program(x), expected)


def test_equal_functions_are_traced_and_compiled_once():
    traced = []

    assert cb.ufunc(scipy.special.j0) == cb.ufunc(scipy.special.j0)
    assert hash(cb.ufunc(scipy.special.j0)) == hash(cb.ufunc(scipy.special.j0))
    assert cb.ufunc(scipy.special.j0) != cb.ufunc(scipy.special.j0, derivative="central")
    static = jax.jit(lambda f, x: (traced.append(1), f(x))[1], static_argnums=0)
    static(cb.ufunc(scipy.special.j0), 1.0)
    static(cb.ufunc(scipy.special.j0), 1.0)
    assert len(traced) == 1


def test_what_it_is():
    jv = cb.ufunc(scipy.special.jv, derivative="central")
    assert (jv.__name__, jv.nin, jv.nout, jv.ufunc) == ("jv", 2, 1, scipy.special.jv)
    assert repr(jv) == "<callbax.ufunc of scipy.special.jv>"
    assert jv.__doc__.startswith("`scipy.special.jv` as a JAX function.")
    assert pickle.loads(pickle.dumps(jv)) == jv


def test_unusable_ufuncs_say_so():
    with pytest.raises(
        TypeError, match="'abs .vectorized.' has loops for Python objects.*external"
    ):
        cb.ufunc(np.frompyfunc(abs, 1, 1))
    with pytest.raises(
        TypeError, match="takes a numpy.ufunc.*got abs of type builtin.*external.*numba.vectorize"
    ):
        cb.ufunc(abs)
    with pytest.raises(TypeError, match="no compiled loops yet; give numba.vectorize the types"):
        cb.ufunc(numba.vectorize(lambda x: x))
    with pytest.raises(TypeError, match="np.vectorize|got .*vectorize"):
        cb.ufunc(np.vectorize(abs))


def test_wrong_arguments_say_so():
    with pytest.raises(TypeError, match="jv> takes 2 argument.s., one array each.*but got 1"):
        cb.ufunc(scipy.special.jv)(1.0)
    with pytest.raises(TypeError, match="'gcd' has no loop for .*float32, float32.*it has bb->b"):
        cb.ufunc(np.gcd)(1.0, 2.0)
    with pytest.raises(ValueError, match="[Ii]ncompatible shapes for broadcasting"):
        cb.ufunc(np.add)(jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match='derivative must be "central"'):
        cb.ufunc(np.add, derivative="forward")
    with pytest.raises(TypeError, match="jv> takes 2 argument.s., .* but got 1 and z by name"):
        cb.scipy.special.jv(0.0, z=1.0)


@pytest.mark.parametrize("argument", [None, "float32", [1.0], {}, np.datetime64("2020")], ids=repr)
def test_what_is_no_array_is_named_with_its_position(argument):
    with pytest.raises(TypeError, match="argument 1 of add must be an array or a number"):
        cb.ufunc(np.add)(1.0, argument)
    with pytest.raises(TypeError, match="(?s)argument 0 of sin .*take jax.random.key_data"):
        cb.ufunc(np.sin)(jax.random.key(0))


def test_another_platform_is_not_exported_for_alone_and_may_stand_beside_cpu():
    program = jax.jit(cb.ufunc(scipy.special.jv))
    with pytest.raises(NotImplementedError, match="jv .ff->f. is in .* exported for rocm alone"):
        export.export(program, platforms=["rocm"])(1.0, 2.0)
    check = export.DisabledSafetyCheck.custom_call("callbax_loop")
    both = export.export(program, platforms=["cpu", "cuda"], disabled_checks=[check])(1.0, 2.0)
    assert both.call(1.0, 2.0) == scipy.special.jv(np.float32(1), np.float32(2))
