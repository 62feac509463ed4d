"""Exported programs in the process that made them, and symbolic shapes."""

import ctypes
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import callbax as cb
from callbax import _native

SCALAR = jax.ShapeDtypeStruct((), np.float32)
CHECKS = [export.DisabledSafetyCheck.custom_call(f"callbax_{kind}") for kind in ("call", "loop")]

calls = []


def record(x):
    calls.append(float(x))
    return x + 1


class Model:
    def method(self, x):
        return x + 1


def adds(k):
    return lambda x: x + k


def in_loop(x):
    def body(carry, _):
        return cb.pure_callback(adds(1), SCALAR, carry), None

    return jax.lax.scan(body, x, None, length=3)[0]


def with_host_rule(x):
    square = cb.external(lambda x: x * x, result=SCALAR)
    square.def_host_vjp(lambda primals, result, cotangent: (2 * primals[0] * cotangent,))
    return jax.grad(square)(x)


def on_threads(x):
    lanes = cb.external(lambda x: x + 1, result=SCALAR, vmap_method="threads")
    return jax.vmap(lanes)(jnp.stack([x, x]))[1]


def masked(x):
    lanes = cb.external(lambda x: x + 1, result=SCALAR)
    return jax.vmap(lambda x: lanes.call_where(x > 0, x))(jnp.stack([x, x]))[1]


def native(x):
    libm = ctypes.CDLL(None)
    libm.fabs.restype, libm.fabs.argtypes = ctypes.c_double, [ctypes.c_double]
    return cb.native(libm.fabs)(x)


def fresh_debug(x):
    cb.debug.callback(lambda x: calls.append(float(x)), x)
    return x


PROGRAMS = {
    "lambda": (lambda x: cb.pure_callback(lambda x: x + 1, SCALAR, x), 3),
    "closure": (lambda x: cb.pure_callback(adds(1), SCALAR, x), 3),
    "partial": (lambda x: cb.pure_callback(functools.partial(np.add, 1), SCALAR, x), 3),
    "method": (lambda x: cb.pure_callback(Model().method, SCALAR, x), 3),
    "io": (lambda x: cb.io_callback(adds(1), SCALAR, x), 3),
    "ordered": (lambda x: cb.io_callback(adds(1), SCALAR, x, ordered=True), 3),
    "debug": (fresh_debug, 2),
    "loop": (in_loop, 5),
    "branch": (
        lambda x: jax.lax.cond(x > 0, lambda x: cb.pure_callback(adds(1), x, x), jnp.sin, x),
        3,
    ),
    "jit": (lambda x: jax.jit(lambda x: cb.pure_callback(adds(1), x, x))(x), 3),
    "host rule": (with_host_rule, 4),
    "threads": (on_threads, 3),
    "call_where": (masked, 3),
    "native": (native, 2),
}


def exported(program, *args):
    with pytest.warns(cb.ExportWarning, match="no name that another process could find it by"):
        return export.export(jax.jit(program), disabled_checks=CHECKS)(*args)


def registered():
    return _native.statistics()["registered"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_exported_program_keeps_its_callbacks_as_long_as_it_lives(name):
    program, expected = PROGRAMS[name]
    jax.clear_caches()
    gc.collect()
    before = registered()

    def call():
        kept = exported(lambda x: program(x), SCALAR)
        for _ in range(2):
            jax.clear_caches()
            gc.collect()
            assert kept.call(np.float32(2)) == expected
            assert jax.jit(kept.call)(np.float32(2)) == expected
        cb.effects_barrier()

    call()
    jax.clear_caches()
    gc.collect()
    assert registered() == before


def test_the_derivative_of_an_exported_program_keeps_what_it_needs():
    def program(x):
        return cb.pure_callback(adds(1), x, jax.lax.stop_gradient(x)) * x

    whole = exported(program, SCALAR)
    derivative = whole.vjp()
    del whole
    jax.clear_caches()
    gc.collect()
    assert derivative.call(np.float32(2), np.float32(1))[0] == 3


def test_an_exported_program_lets_its_callback_go():
    def make():
        def fresh(x):
            return x + 1

        return exported(lambda x: cb.pure_callback(fresh, x, x), SCALAR), weakref.ref(fresh)

    program, alive = make()
    gc.collect()
    assert alive() is not None
    del program
    jax.clear_caches()
    gc.collect()
    assert alive() is None


def test_a_file_of_this_process_works_while_the_exported_program_lives():
    program = exported(lambda x: cb.pure_callback(adds(1), x, x), SCALAR)
    loaded = export.deserialize(program.serialize())
    assert loaded.call(np.float32(2)) == 3
    del program
    jax.clear_caches()
    gc.collect()
    with pytest.raises(jax.errors.JaxRuntimeError, match="adds.*existed only in the process"):
        loaded.call(np.float32(2))


def test_two_exported_programs_never_share_a_name():
    first = exported(lambda x: cb.pure_callback(adds(1), x, x), SCALAR)
    second = exported(lambda x: cb.pure_callback(adds(2), x, x), SCALAR)
    assert [first.call(np.float32(2)), second.call(np.float32(2))] == [3, 4]


def test_the_warning_names_the_callback_and_the_line_that_exports():
    with pytest.warns(cb.ExportWarning) as caught:
        export.export(jax.jit(lambda x: cb.pure_callback(adds(1), x, x)), disabled_checks=CHECKS)(
            SCALAR
        )
    (warning,) = caught
    assert "adds.<locals>.<lambda> (" in str(warning.message)
    assert warning.filename == __file__


def test_what_has_a_name_is_exported_without_a_warning():
    program = export.export(
        jax.jit(lambda x: cb.pure_callback(np.sin, x, x)), disabled_checks=CHECKS
    )
    assert program(SCALAR).call(np.float32(0)) == 0


FLAVOURS = {
    "pure": lambda x: cb.pure_callback(record, x, x),
    "io": lambda x: cb.io_callback(record, x, x),
    "debug": lambda x: (cb.debug.callback(record, x), x + 1)[1],
    "external": cb.external(record, result=SCALAR),
}


@pytest.mark.filterwarnings("ignore::callbax.ExportWarning")
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_lanes_over_symbolic_dimensions(flavour):
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("n, m"), np.float32)
    program = jax.jit(jax.vmap(jax.vmap(FLAVOURS[flavour])))
    symbolic = export.export(program, disabled_checks=CHECKS)(shape)
    for size in ((2, 3), (1, 1), (3, 2)):
        x = np.arange(np.prod(size), dtype=np.float32).reshape(size)
        calls.clear()
        assert np.array_equal(symbolic.call(x), x + 1)
        cb.effects_barrier()
        assert calls == list(x.T.ravel())


def test_lanes_over_a_symbolic_dimension_of_one_argument():
    lanes = export.symbolic_shape("n")
    program = jax.vmap(lambda x, y: cb.pure_callback(np.add, SCALAR, x, y), in_axes=(0, None))
    symbolic = export.export(jax.jit(program), disabled_checks=CHECKS)(
        jax.ShapeDtypeStruct(lanes, np.float32), SCALAR
    )
    assert symbolic.call(np.float32([1, 2, 3]), np.float32(4)).tolist() == [5, 6, 7]


def test_symbolic_shapes_of_elementwise_functions():
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("n, m"), np.float32)
    cosine = cb.external(np.cos, result="broadcast")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    program = export.export(jax.jit(cosine), disabled_checks=CHECKS)(shape)
    assert np.array_equal(program.call(x), np.cos(x))
