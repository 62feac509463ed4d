"""Eager calls are compiled once, and mean what other calls mean."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compile_count

import callbax as cb

SCALAR = jax.ShapeDtypeStruct((), np.float32)


def double(x):
    return 2 * x


CALLS = {
    "pure": lambda x: cb.pure_callback(double, SCALAR, x),
    "io": lambda x: cb.io_callback(double, SCALAR, x),
    "ordered io": lambda x: cb.io_callback(double, SCALAR, x, ordered=True),
    # Made anew, and equal.
    "external": lambda x: cb.external(double, result=SCALAR)(x),
    "differentiable external": lambda x: cb.external(double, result=SCALAR, derivative="central")(
        x
    ),
    "ufunc": lambda x: cb.ufunc(np.positive)(x) * 2,
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
def test_equal_eager_calls_are_compiled_once(call):
    jax.clear_caches()
    call(jnp.float32(0))
    with compile_count() as compiled:
        assert [float(call(jnp.float32(i))) for i in range(3)] == [0.0, 2.0, 4.0]
    assert not compiled


@each_call
def test_eager_calls_take_numbers_arrays_and_numpys(call):
    for value in (3.0, np.float32(3), np.array(3, np.float32), jnp.float32(3), np.float64(3)):
        assert float(call(value)) == 6.0


@each_call
def test_eager_calls_work_while_jit_is_disabled(call):
    with jax.disable_jit():
        assert [float(call(jnp.float32(i))) for i in range(2)] == [0.0, 2.0]


@pytest.mark.parametrize("name", ["pure", "io", "ordered io"])
@pytest.mark.parametrize("value", ["three", np.array(["three"]), 2**40, np.longdouble(3)])
def test_an_argument_that_is_no_array_is_refused(name, value):
    with pytest.raises((TypeError, OverflowError)) as traced:
        jax.jit(lambda: CALLS[name](value))()
    with pytest.raises(traced.type):
        CALLS[name](value)


def test_settings_make_another_program():
    seen = []
    call = cb.external(lambda x: seen.append(x.dtype.name) or x, result=cb.like(0))
    for enabled in (False, True, False):
        with jax.enable_x64(enabled):
            assert call(1.0).dtype == (np.float64 if enabled else np.float32)
    assert seen == ["float32", "float64", "float32"]


def test_the_error_state_makes_another_program():
    log = cb.ufunc(np.log)
    assert log(0.0) == -np.inf
    with np.errstate(divide="raise"), pytest.raises(jax.errors.JaxRuntimeError, match="divide"):
        jax.block_until_ready(log(0.0))
    assert log(0.0) == -np.inf


def test_a_rule_that_is_added_later_does_not_change_values():
    f = cb.external(double, result=SCALAR)
    assert f(1.0) == 2.0
    f.defjvps(lambda tangent, answer, x: 5 * tangent)
    assert f(1.0) == 2.0
    assert jax.grad(f)(1.0) == 5.0


def test_a_given_name_is_free_again_after_an_eager_call():
    for factor in (2, 3):
        f = cb.external(lambda x, k=factor: x * np.float32(k), result=SCALAR, name="test.eager")
        assert f(1.0) == factor
        del f


def test_nans_are_reported_by_the_name_of_the_function():
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="pure_callback"):
        cb.pure_callback(lambda x: x * np.float32("nan"), SCALAR, 1.0)


@pytest.mark.parametrize("call", ["jit", "grad", "vmap"])
def test_tracers_take_the_primitive(call):
    f = cb.external(double, result=cb.like(0), derivative="central")
    transformed = {"jit": jax.jit, "grad": jax.grad, "vmap": jax.vmap}[call](lambda x: f(x))
    x = jnp.ones(2) if call == "vmap" else 1.0
    np.testing.assert_allclose(transformed(x), 2.0, rtol=1e-3)


@pytest.mark.process
def test_what_is_imported_on_demand_is_found_by_programs_from_elsewhere(tmp_path):
    """Names of a kind that nothing imported so far knows."""
    path = str(tmp_path / "program")
    write = f"""
        import jax, jax.export, numpy as np, callbax as cb
        checks = [jax.export.DisabledSafetyCheck.custom_call("callbax_loop")]
        f = jax.jit(cb.ufunc(np.square))
        exported = jax.export.export(f, disabled_checks=checks)(np.float32(3))
        open({path!r}, "wb").write(exported.serialize())
    """
    read = f"""
        import sys, jax, jax.export, numpy as np, callbax as cb
        assert "callbax._compiled" not in sys.modules and "callbax._external" not in sys.modules
        exported = jax.export.deserialize(open({path!r}, "rb").read())
        print(float(exported.call(np.float32(3))))
    """
    for program in (write, read):
        command = [sys.executable, "-c", textwrap.dedent(program)]
        output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert output.stdout == "9.0\n"
