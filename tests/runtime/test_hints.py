"""What callbax adds to a callback's exception that speaks of something else than what is wrong."""

import functools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import callbax as cb

SCALAR = jax.ShapeDtypeStruct((), np.float32)


@pytest.fixture(autouse=True)
def quiet_log(caplog):
    caplog.set_level(logging.CRITICAL + 1, "callbax")


def failure(function, *args):
    with pytest.raises(jax.errors.JaxRuntimeError) as info:
        jax.block_until_ready(function(*args))
        cb.effects_barrier()
    return cb.original_exception(info.value)


def hints_of(error):
    return [n for n in error.__notes__ if n.startswith("callbax: ") and "callbax: in " not in n]


USES = {
    "float": lambda y: float(y),
    "if": lambda y: 1.0 if y > 0 else 2.0,
    "asarray": lambda y: np.asarray(y),
    "index": lambda y: [0.0][y.astype(int)],
    "arithmetic": lambda y: np.float32(1) + y,
    "container": lambda y: float({"a": [y]}["a"][0]),
}
ROUTES = {
    "pure_callback": lambda f, x: cb.pure_callback(f, SCALAR, x),
    "io_callback": lambda f, x: cb.io_callback(f, SCALAR, x),
    "debug.callback": lambda f, x: cb.debug.callback(f, x),
    "external": lambda f, x: cb.external(f, result=SCALAR)(x),
    "external, views": lambda f, x: cb.external(f, result=SCALAR, zero_copy=True)(x),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("route", ROUTES)
def test_a_traced_value_of_the_function_around_is_named(route, use):
    def around(x, outer):
        return ROUTES[route](lambda inner: inner + USES[use](outer), x)

    (hint,) = hints_of(failure(jax.jit(around), 1.0, 2.0))
    assert "has outer from the function around it" in hint
    assert hint.endswith("Give it to the callback as an argument")


def test_a_partial_s_traced_values_are_named():
    def callback(y, x, *, z):
        return float(x) + float(y[0]) + z[1]

    def around(x, y, z):
        return cb.pure_callback(functools.partial(callback, [y], z=(z, 1)), SCALAR, x)

    (hint,) = hints_of(failure(jax.jit(around), 1.0, 2.0, 3.0))
    assert "argument 0, z" in hint


def test_a_mistake_with_tracers_of_its_own_gets_no_hint():
    def callback(x):
        return jax.jit(lambda y: float(y))(x)

    assert not hints_of(failure(jax.jit(lambda x: cb.pure_callback(callback, SCALAR, x)), 1.0))


FUNCTIONS = {
    "ufunc": (np.sin, np.add),
    "Python": (lambda x: x, lambda x, y: x + y),
    "builtin": (abs, pow),
}


@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("call", [cb.pure_callback, cb.io_callback])
def test_a_forgotten_result_is_named(call, functions):
    for count, function in enumerate(FUNCTIONS[functions], 1):
        (hint,) = hints_of(failure(jax.jit(functools.partial(call, function)), *(1.0, 2.0)[:count]))
        assert hint.startswith(
            f"callbax: of callbax.{call.__name__}: its second argument is result"
        )


@pytest.mark.parametrize("call", [cb.pure_callback, cb.io_callback])
def test_an_option_that_is_none_is_named(call):
    program = jax.jit(lambda x: call(lambda value: value, SCALAR, x, order=True))
    (hint,) = hints_of(failure(program, 1.0))
    assert hint.startswith(
        f"callbax: of callbax.{call.__name__}: keyword arguments that are none of"
    )


SINGLE = {
    "builtin": math.gamma,
    "branch": lambda x: x if x > 0 else -x,
    "float": lambda x: float(x),
}


@pytest.mark.parametrize("function", SINGLE)
def test_a_function_of_single_numbers_is_told_how_to_get_them(function):
    numbers = jnp.arange(1.0, 4.0)
    for wrapped in (
        cb.external(SINGLE[function], result="broadcast"),
        lambda x: cb.pure_callback(SINGLE[function], x, x),
    ):
        (hint,) = hints_of(failure(wrapped, numbers))
        assert "signature='()->()'" in hint
    assert cb.external(SINGLE[function], signature="()->()")(numbers).shape == (3,)


def test_an_array_that_is_taken_for_a_number_further_inside_gets_no_hint():
    def inside(x):
        return np.float32(1 if x > 0 else 2)

    program = cb.external(lambda x: inside(np.append(x, 1)), result=SCALAR)
    assert not hints_of(failure(program, 1.0))


def test_a_forgotten_batch_is_named():
    watches = jax.jit(lambda x: cb.debug.watch(lambda value: None, x))
    (hint,) = hints_of(failure(watches, 1.0))
    assert hint.startswith(
        "callbax: of callbax.debug.watch: the callback gets a callbax.debug.Batch"
    )


@pytest.mark.parametrize(
    "callback", [lambda x: abs(), lambda x: len(x), lambda x: np.add(x, object())]
)
def test_a_type_error_of_the_callback_s_own_gets_no_hint(callback):
    error = failure(jax.jit(lambda x: cb.pure_callback(callback, SCALAR, x)), jnp.float32(1))
    assert isinstance(error, TypeError)
    assert not hints_of(error)


def test_an_exception_that_is_raised_again_has_its_hint_once():
    kept = []

    def around(x, y):
        def callback(x):
            try:
                return float(y)
            except TypeError as error:
                kept.append(error)
                raise kept[0] from None

        return cb.pure_callback(callback, SCALAR, x)

    program = jax.jit(around)
    assert failure(program, 1.0, 2.0) is failure(program, 1.0, 2.0)
    assert len(hints_of(kept[0])) == 1


def test_a_misspelt_vmap_method_is_refused_with_the_callback_s_name():
    with pytest.raises(
        ValueError, match=r"but got: sequental; in the callback .*<lambda> \(.*:\d+\)"
    ):
        cb.pure_callback(lambda x: x, SCALAR, 1.0, vmap_method="sequental")
