"""Scalar C functions from every library's wrapping, called elementwise."""

import ctypes
import gc
import os
import pickle
import weakref

import cffi
import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
import scipy
from helpers import devices, names_in
from jax import lax
from scipy.special import cython_special

import callbax as cb
from callbax._compiled.c_signature import parse

SOURCE = """
#include <complex.h>
#include <stdint.h>
double power(double x, int n) { double y = 1; while (n-- > 0) y *= x; return y; }
float half(float x) { return x / 2; }
int32_t add(int32_t a, int64_t b) { return (int32_t)(a + b); }
double mixed(int32_t a, double b, int64_t c, float d) { return a + 10 * b + 100 * c + 1000 * d; }
double complex turn(double complex z, double angle) { return z * cexp(I * angle); }
float complex conjugate(float complex z) { return conjf(z); }
double modulus(double complex z) { return cabs(z); }
double scaled(double x, void *factor) { return x * *(double *)factor; }
double outputs(double x, double *y) { *y = x; return x; }
double cube(double x) { return x * x * x; }
double cube_slope(double x) { return 3 * x * x; }
"""
X = np.linspace(0.1, 2, 7, dtype=np.float32)


@pytest.fixture(scope="module")
def library_path(compile_c):
    return compile_c(SOURCE)


@pytest.fixture
def library(library_path):
    """With no function declared yet: ctypes keeps the declarations of a CDLL."""
    return ctypes.CDLL(library_path)


def declared(function, result, *arguments):
    function.restype, function.argtypes = result, list(arguments)
    return function


def capsule(name):
    return cython_special.__pyx_capi__[name]


def raw_capsule(address, name):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(address, name, None)


def address_of(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def ctypes_cube(library):
    return cb.native(declared(library.cube, ctypes.c_double, ctypes.c_double))


def undeclared_cube(library):
    return cb.native(library.cube, "double(double)")


def cffi_cube(library):
    ffi = cffi.FFI()
    ffi.cdef("double cube(double);")
    return cb.native(ffi.dlopen(library._name).cube)


def numba_cube(library):
    return cb.native(numba.cfunc("float64(float64)")(lambda x: x * x * x))


def low_level_cube(library):
    function = declared(library.cube, ctypes.c_double, ctypes.c_double)
    return cb.native(scipy.LowLevelCallable(function))


def address_cube(library):
    return cb.native(address_of(library.cube), "double (double)")


# The capsules' names have to outlive them.
NAME = b"double (double)"


def capsule_cube(library):
    return cb.native(raw_capsule(address_of(library.cube), NAME))


def nameless_capsule_cube(library):
    return cb.native(raw_capsule(address_of(library.cube), None), "double f(double x)")


CUBES = [
    ctypes_cube,
    undeclared_cube,
    cffi_cube,
    numba_cube,
    low_level_cube,
    address_cube,
    capsule_cube,
    nameless_capsule_cube,
]


@pytest.mark.parametrize("make", CUBES)
def test_each_kind_of_callee(library, make):
    cube = make(library)
    np.testing.assert_allclose(cube(X), X**3, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(cube)(X), X**3, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(cube)(X), X**3, rtol=1e-6)
    total, _ = jax.jit(lambda x: lax.scan(lambda c, v: (c + cube(v), None), 0.0, x))(X)
    np.testing.assert_allclose(total, (X**3).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gammainc", lambda x: scipy.special.gammainc(1.5, x)),
        ("__pyx_fuse_0_1eval_legendre", lambda x: scipy.special.eval_legendre(1.5, x)),
    ],
)
def test_functions_of_cython_modules(name, expected):
    # Their trailing int, which no user sees, is 0.
    function = cb.native(capsule(name), "double (double, double)")
    np.testing.assert_allclose(function(1.5, X), expected(X), rtol=1e-6)
    assert function == cb.native(capsule(name))


def test_a_low_level_callable_of_a_cython_module():
    from_cython = scipy.LowLevelCallable.from_cython(cython_special, "gammainc")
    np.testing.assert_allclose(
        cb.native(from_cython)(1.5, X), scipy.special.gammainc(1.5, X), rtol=1e-6
    )


def test_complex_functions_of_cython_modules():
    hyp2f1 = cb.native(capsule("__pyx_fuse_0hyp2f1"))
    z = np.array([0.1 + 0.2j, -0.3j], np.complex64)
    np.testing.assert_allclose(
        hyp2f1(1.0, 2.0, 3.0, z), scipy.special.hyp2f1(1.0, 2.0, 3.0, z), rtol=1e-5
    )


def test_integers_beside_floats(library):
    power = cb.native(library.power, "double (double, int)")
    n = np.arange(7, dtype=np.int32)
    np.testing.assert_allclose(jax.jit(power)(X, n), X**n, rtol=1e-6)
    mixed = cb.native(library.mixed, "double (int, double, int64_t, float)")
    np.testing.assert_allclose(mixed(1, 2.0, 3, jnp.float32(4)), 4321)
    add = cb.native(library.add, "int32_t (int32_t, int64_t)")
    assert add(n, 2).dtype == jnp.int32
    np.testing.assert_array_equal(add(n, 2), n + 2)


def test_complex_numbers_pass_as_in_c(library):
    z = np.array([1 + 2j, -0.5j], np.complex64)
    turn = cb.native(library.turn, "double complex (double complex, double)")
    np.testing.assert_allclose(turn(z, 0.5), z * np.exp(0.5j), rtol=1e-6)
    conjugate = cb.native(library.conjugate, "float complex (float complex)")
    np.testing.assert_array_equal(conjugate(z), z.conj())
    modulus = cb.native(library.modulus, "double (double complex)")
    np.testing.assert_allclose(modulus(z), abs(z), rtol=1e-6)


def test_complex_numbers_of_numba():
    @numba.cfunc("complex128(complex128, float64)")
    def scale(z, x):
        return z * x

    z = np.array([1 + 2j, -0.5j], np.complex64)
    np.testing.assert_allclose(cb.native(scale)(z, 2.0), 2 * z)


def test_complex64_of_numba_is_refused_since_it_is_not_cs():
    @numba.cfunc("complex64(complex64)")
    def twice(z):
        return z + z

    with pytest.raises(TypeError, match="Numba does not pass complex64 as C does"):
        cb.native(twice)


def test_user_data_goes_to_the_trailing_pointer(library):
    factor = np.array([3.0])
    scaled = cb.native(library.scaled, "double (double, void*)", user_data=factor)
    np.testing.assert_allclose(scaled(X), 3 * X, rtol=1e-6)
    other = ctypes.c_double(4.0)
    scaled = cb.native(library.scaled, "double (double, void*)", user_data=other)
    np.testing.assert_allclose(scaled(X), 4 * X, rtol=1e-6)


def test_user_data_of_a_low_level_callable(library):
    function = declared(library.scaled, ctypes.c_double, ctypes.c_double, ctypes.c_void_p)
    factor = ctypes.c_double(5.0)
    data = ctypes.cast(ctypes.pointer(factor), ctypes.c_void_p)
    scaled = cb.native(scipy.LowLevelCallable(function, data))
    np.testing.assert_allclose(scaled(X), 5 * X, rtol=1e-6)


def test_derivatives_as_those_of_ufuncs(library):
    slope = cb.native(library.cube_slope, "double (double)")
    cube = cb.native(library.cube, "double (double)", derivatives=[slope])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(cube)))(X), 3 * X**2, rtol=1e-5)
    cube.defjvps(lambda tangent, answer, x: tangent * 3 * answer / x)
    np.testing.assert_allclose(jax.vmap(jax.grad(cube))(X), 3 * X**2, rtol=1e-5)
    power = cb.native(library.power, "double (double, int)", derivative="central")
    np.testing.assert_allclose(jax.grad(power)(2.0, 3), 12, rtol=1e-2)
    with pytest.raises(NotImplementedError, match="cube has no derivative"):
        jax.grad(cb.native(library.cube, "double (double)"))(2.0)


def test_widths_follow_x64(library):
    cube = cb.native(library.cube, "double (double)")
    half = cb.native(library.half, "float (float)")
    assert cube(X).dtype == jnp.float32
    with jax.enable_x64(True):
        assert cube(X).dtype == jnp.float64
        assert cube(np.float64(1.1)) == 1.1 * 1.1 * 1.1
        assert half(X).dtype == jnp.float32
        with pytest.raises(TypeError, match="half computes with .float32., but argument 0 has"):
            half(np.float64([1.1]))


def test_small_floats_are_computed_in_the_functions_type(library):
    cube = cb.native(library.cube, "double (double)")
    result = cube(jnp.asarray([1.5, 2.0], jnp.bfloat16))
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result.astype(jnp.float32), [3.375, 8])


@pytest.mark.parametrize(
    "argument", [1.5, 1j, np.uint32([1]), np.float32([1])], ids=["float", "complex", "uint", "f32"]
)
def test_arguments_never_lose_their_kind(library, argument):
    power = cb.native(library.power, "double (double, int)")
    with pytest.raises(TypeError, match="argument 1 has dtype .* does not convert to int32"):
        power(X, argument)


def test_denormals_are_numbers_inside(library):
    half = cb.native(library.half, "float (float)")
    tiny = jnp.float32(1e-38)
    assert np.asarray(jax.jit(lambda x: half(x))(tiny)) != 0


def test_equal_calls_share_traces_and_programs(library):
    make = lambda: cb.native(library.cube, "double (double)")  # noqa: E731
    assert make() == make() and hash(make()) == hash(make())
    assert make() != cb.native(library.cube_slope, "double (double)")


def test_addresses_do_not_stand_in_programs(library):
    cube = cb.native(library.cube, "double (double)")
    text = jax.jit(cube).lower(X).as_text()
    address = address_of(library.cube)
    assert str(address) not in text and f"{address:x}" not in text


# -- what is wrong, and what the message says --------------------------------------------------------


def test_a_missing_signature(library):
    function = library.cube
    with pytest.raises(TypeError, match=r"cube .*library.so. does not say what its signature is"):
        cb.native(function)
    with pytest.raises(TypeError, match="does not say what its signature is"):
        cb.native(address_of(function))


def test_a_result_that_ctypes_guesses_to_be_an_int(library):
    library.cube.argtypes = [ctypes.c_double]
    with pytest.raises(TypeError, match=r"cube .* does not say what it returns .*restype, too"):
        cb.native(library.cube)
    assert cb.native(library.cube, "double (double)")(2.0) == 8


def test_results_that_ctypes_is_told_to_be_ints(library):
    add = declared(library.add, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    assert cb.native(add)(2, 3) == 5
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    assert cb.native(prototype(("add", library)))(2, 4) == 6


def test_a_signature_that_differs_from_the_objects(library):
    function = declared(library.power, ctypes.c_double, ctypes.c_double, ctypes.c_int)
    with pytest.raises(TypeError, match=r"power .* is declared as double \(double, int\), but was"):
        cb.native(function, "double (double, double)")
    with pytest.raises(TypeError, match="is declared as double .double., but was given the sig"):
        cb.native(numba.cfunc("float64(float64)")(lambda x: x), "float(float)")
    with pytest.raises(
        TypeError, match="is declared as double .double, double, int skip_dispatch."
    ):
        cb.native(capsule("gammainc"), "double (double)")


def test_a_signature_that_cannot_be_called(library):
    with pytest.raises(TypeError, match="cannot be called elementwise.*write a kernel"):
        cb.native(library.outputs, "double (double, double *)")
    with pytest.raises(TypeError, match="cannot be called elementwise"):
        cb.native(library.modulus, "double (double, double, double, double, double)")
    with pytest.raises(TypeError, match="cannot be called elementwise"):
        cb.native(library.modulus, "long double (long double)")
    with pytest.raises(TypeError, match="cannot be called elementwise"):
        cb.native(capsule("__pyx_fuse_1spherical_jn"))


def test_null_pointers():
    with pytest.raises(ValueError, match="is a null pointer"):
        cb.native(0, "double (double)")
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
    with pytest.raises(ValueError, match="is a null pointer"):
        cb.native(kind())
    for number in (-1, 2**64):
        with pytest.raises(ValueError, match="is not an address"):
            cb.native(number, "double (double)")


@pytest.mark.parametrize(
    ("item", "hint"),
    [
        (np.sin, "callbax.ufunc"),
        (lambda x: x, "callbax.external"),
        (numba.njit(lambda x: x), "@numba.cfunc"),
        ("cube", "takes a function of ctypes or cffi"),
        (True, "takes a function of ctypes or cffi"),
        (cffi.FFI().new("double*"), "which is not a function"),
    ],
    ids=["ufunc", "python", "njit", "str", "bool", "cffi data"],
)
def test_objects_of_other_kinds(item, hint):
    with pytest.raises(TypeError, match=hint):
        cb.native(item, "double (double)")


def test_python_functions_in_ctypes_clothes():
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
    with pytest.raises(TypeError, match="is a Python function that ctypes wraps for C"):
        cb.native(kind(lambda x: x))


def test_variadic_functions():
    ffi = cffi.FFI()
    ffi.cdef("int printf(const char *, ...); double strange(double, ...);")
    with pytest.raises(TypeError, match="cannot be called elementwise"):
        cb.native(ffi.dlopen(None).printf)
    assert str(parse("double (double, ...)")) == "double (double, ...)"
    assert parse("double (double, ...)").code is None


def test_options_of_kernels(library):
    with pytest.raises(TypeError, match="result= is for kernels, but cube"):
        cb.native(library.cube, "double (double)", result=X)
    with pytest.raises(TypeError, match="user_data must be a NumPy array, a ctypes object"):
        cb.native(library.scaled, "double (double, void*)", user_data=[1.0])
    with pytest.raises(ValueError, match="must be C-contiguous"):
        cb.native(library.scaled, "double (double, void*)", user_data=np.ones((4, 4))[:, 1])


# -- programs ------------------------------------------------------------------------------------------


def test_a_large_call_is_split_over_threads_only_if_that_is_asked_for(library):
    x = np.linspace(0, 1, 300_000, dtype=np.float32)
    for parallel in (False, True):
        cube = cb.native(library.cube, "double (double)", parallel=parallel)
        np.testing.assert_allclose(jax.jit(cube)(x), x**3, rtol=1e-6)
        assert ("serial" in jax.jit(cube).lower(x).as_text()) is not parallel
    assert cb.native(library.cube, "double (double)") != cube


THREAD_OF = """
#define _POSIX_C_SOURCE 199309L
#include <pthread.h>
#include <stdint.h>
#include <time.h>
/* Which thread asks. It sleeps, so that other threads have the time to come. */
double thread_of(double x) {
  const struct timespec pause = {0, 2000000};
  nanosleep(&pause, 0);
  return (double)(((uintptr_t)pthread_self() >> 12) % 1000003) + 0 * x;
}
"""


@pytest.mark.parametrize("parallel", [False, True])
def test_threads_that_take_part(compile_c, parallel):
    thread_of = ctypes.CDLL(compile_c(THREAD_OF)).thread_of
    function = cb.native(thread_of, "double (double)", parallel=parallel)
    threads = len(np.unique(jax.jit(function)(np.zeros(200, np.float32))))
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert (threads > 1) == (parallel and available > 1)


def test_functions_that_others_can_import_are_named_by_module():
    function = cb.native(capsule("gammainc"))
    text = jax.jit(function).lower(X, X).as_text()
    loop = "scipy.special.cython_special:__pyx_capi__.gammainc"
    assert names_in(text) == [{"loop": loop, "types": "dd->d"}]


@numba.cfunc("float64(float64, voidptr)")
def ignores_its_data(x, _data):
    return x


def test_user_data_takes_the_stable_name_away():
    def name(**options):
        return names_in(jax.jit(cb.native(ignores_its_data, **options)).lower(X).as_text())[0]

    assert name() == {"loop": f"{__name__}:ignores_its_data", "types": "d->d"}
    assert "local" in name(user_data=np.zeros(1))


def test_a_sharded_call_runs_where_its_items_are(library):
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices(8))
    sharding = jax.sharding.NamedSharding(mesh, jax.P("i"))
    x = jax.device_put(np.arange(16, dtype=np.float32), sharding)
    result = jax.jit(cb.native(library.cube, "double (double)"))(x)
    np.testing.assert_allclose(result, np.arange(16.0) ** 3)
    assert result.sharding.is_equivalent_to(sharding, 1)


def test_it_cannot_be_pickled(library):
    with pytest.raises(TypeError, match="cannot be pickled: it stands for an address"):
        pickle.dumps(cb.native(library.cube, "double (double)"))


def test_wrong_user_data(library):
    with pytest.raises(
        TypeError, match="user_data=, but its signature double .double. has no trail"
    ):
        cb.native(library.cube, "double (double)", user_data=np.ones(1))
    for number in (-1, 2**64):
        with pytest.raises(ValueError, match=f"user_data={number} is not an address"):
            cb.native(library.scaled, "double (double, void*)", user_data=number)


def test_functions_that_want_the_gil_are_refused():
    with pytest.raises(TypeError, match="of Python's C API.*must be called with the GIL held"):
        cb.native(ctypes.pythonapi.PyFloat_GetMax, "double (double)")


def test_what_a_bare_address_does_not_keep_alive_its_object_keeps(library):
    data = np.array([6.0])
    kept = weakref.ref(data)
    for user_data in (data.ctypes.data, data):
        scaled = cb.native(library.scaled, "double (double, void*)", user_data=user_data)
        kernel = cb.native(library.cube, kernel=True, result=X, user_data=user_data)
        assert jax.jit(scaled)(1.0) == 6
    del data, user_data
    gc.collect()
    assert kept() is not None
    assert (
        kernel._function.owners
        != cb.native(
            library.cube, kernel=True, result=X, user_data=kept().ctypes.data
        )._function.owners
    )


def test_functions_that_nobody_needs_any_more_are_let_go(library):
    alive = []
    for value in range(600):
        data = np.array([float(value)])
        alive.append(weakref.ref(data))
        scaled = cb.native(library.scaled, "double (double, void*)", user_data=data)
        cb.native(library.scaled, kernel=True, result=X, user_data=data)
        if value % 100 == 0:
            assert jax.jit(scaled)(1.0) == value
    del scaled, data
    jax.clear_caches()
    gc.collect()
    assert (
        sum(reference() is not None for reference in alive) <= 256
    )  # those that are kept for reuse
