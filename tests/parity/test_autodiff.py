"""Autodiff: pure and io refuse, debug is transparent."""

import flavours
import jax
import jax.numpy as jnp
import pytest
from helpers import EAGER_AND_JIT, both, both_in_any_order, both_raise

pytestmark = pytest.mark.sampled(8)

PURE_MESSAGE = "Pure callbacks do not support JVP. Please use `jax.custom_jvp`"
IO_MESSAGE = "IO callbacks do not support JVP."

# Ways of differentiating f at 3, each with the value for f(x) = x².
DERIVATIVES = {
    "jvp": (lambda f: jax.jvp(f, (3.0,), (1.0,)), [9.0, 6.0]),
    "vjp": (lambda f: jax.vjp(f, 3.0)[1](1.0), [6.0]),
    "grad": (lambda f: jax.grad(f)(3.0), [6.0]),
    "value_and_grad": (lambda f: jax.value_and_grad(f)(3.0), [9.0, 6.0]),
    "linearize": (lambda f: jax.linearize(f, 3.0)[1](1.0), [6.0]),
    "jacfwd": (lambda f: jax.jacfwd(f)(3.0), [6.0]),
    "jacrev": (lambda f: jax.jacrev(f)(3.0), [6.0]),
    "hessian": (lambda f: jax.hessian(f)(3.0), [2.0]),
    "grad of grad": (lambda f: jax.grad(jax.grad(f))(3.0), [2.0]),
}
EACH_DERIVATIVE = pytest.mark.parametrize("derivative", DERIVATIVES)


def differentiate(derivative, transform, f):
    return DERIVATIVES[derivative][0](transform(f))


def numbers(value):
    return [float(leaf) for leaf in jax.tree.leaves(value)]


@EACH_DERIVATIVE
@EAGER_AND_JIT
@flavours.each(flavours.WITH_RESULT)
def test_differentiating_pure_and_io_is_an_error(call, derivative, transform):
    """ValueErrors: "Pure callbacks do not support JVP. …", "IO callbacks do not support JVP."."""

    def program(library, record):
        return differentiate(derivative, transform, lambda x: call(library, record, x) * x)

    message = PURE_MESSAGE if call is flavours.pure else IO_MESSAGE
    outcome = both_raise(program, ValueError, message)
    assert outcome.calls == []


@pytest.mark.parametrize(
    ("flavour", "message"),
    [
        ("pure_callback", "Pure callbacks do not support transpose. Please use `jax.custom_vjp`"),
        ("io_callback", "IO callbacks do not support transpose."),
    ],
)
def test_transposing_pure_and_io_is_an_error(flavour, message):
    """ "IO callbacks do not support transpose."."""

    def program(library, record):
        callback = getattr(library, flavour)
        x = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.linear_transpose(lambda x: callback(record, x, x), x)(1.0)

    outcome = both_raise(program, ValueError, message)
    assert outcome.calls == []


@EACH_DERIVATIVE
@EAGER_AND_JIT
@flavours.each(flavours.WITH_RESULT)
def test_pure_and_io_run_under_stop_gradient(call, derivative, transform):
    """Under `stop_gradient` pure and io work inside grad."""

    @both
    def outcome(library, record):
        def f(x):
            return x * x + 0 * call(library, record, jax.lax.stop_gradient(x))

        return differentiate(derivative, transform, f)

    assert numbers(outcome.value) == DERIVATIVES[derivative][1]
    assert outcome.calls in ([3.0], [])
    if call is not flavours.pure:
        assert outcome.calls == [3.0]


@EACH_DERIVATIVE
@EAGER_AND_JIT
@flavours.each(flavours.WITH_RESULT)
def test_pure_and_io_run_where_no_differentiated_value_reaches_them(call, derivative, transform):
    """When no differentiated value reaches them, pure and io work inside grad."""

    @both
    def outcome(library, record):
        def f(x):
            return x * x + call(library, record, jnp.float32(7)) - 7

        return differentiate(derivative, transform, f)

    assert numbers(outcome.value) == DERIVATIVES[derivative][1]
    if call is not flavours.pure:
        assert outcome.calls == [7.0]


@EACH_DERIVATIVE
@EAGER_AND_JIT
@flavours.each(flavours.DEBUG)
def test_debug_is_called_once_with_the_primal(call, derivative, transform):
    """debug: primal only, one call under jvp, vjp, grad, hessian, jacfwd."""

    @both
    def outcome(library, record):
        return differentiate(derivative, transform, lambda x: call(library, record, x) * x)

    assert outcome.calls == [3.0]
    assert numbers(outcome.value) == DERIVATIVES[derivative][1]


@flavours.each(flavours.DEBUG)
def test_transposing_never_calls_debug(call):
    """debug: transposition never calls."""

    @both
    def outcome(library, record):
        x = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.linear_transpose(lambda x: call(library, record, x) * 2, x)(1.0)

    assert numbers(outcome.value) == [2.0]
    assert outcome.calls == []


@flavours.each(flavours.DEBUG)
@EAGER_AND_JIT
def test_debug_of_intermediate_values_under_grad_of_vmap(call, transform):
    """debug: once per lane with primal values, under grad of vmap and vmap of grad."""

    def program(library, record):
        def f(x):
            return call(library, record, jnp.sin(x) * 0 + x * 2) * x

        x = jnp.arange(3.0)
        outer = jax.grad(lambda x: jax.vmap(f)(x).sum())
        return transform(outer)(x), transform(jax.vmap(jax.grad(f)))(x)

    outcome = both_in_any_order(program)
    assert [x.tolist() for x in outcome.value] == [[0.0, 4.0, 8.0]] * 2
    assert sorted(outcome.calls) == [0.0, 0.0, 2.0, 2.0, 4.0, 4.0]
