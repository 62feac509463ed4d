"""Custom derivative rules and solvers, which decide for themselves what is called."""

import flavours
import jax
import jax.numpy as jnp
import pytest
from helpers import EAGER_AND_JIT, both, both_in_any_order

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


def numbers(value):
    return [float(leaf) for leaf in jax.tree.leaves(value)]


@EAGER_AND_JIT
@flavours.each(flavours.DEBUG)
def test_custom_jvp_prints_of_its_rule_replace_those_of_the_primal(call, transform):
    """custom_jvp: the primal's print is gone once differentiated, the rule's prints appear."""

    @both
    def outcome(library, record):
        @jax.custom_jvp
        def f(x):
            call(library, record, x)
            return x * x

        @f.defjvp
        def rule(primals, tangents):
            (x,), (t,) = primals, tangents
            call(library, record, x + 100)
            return x * x, 2 * x * t

        value = transform(f)(3.0)
        record.calls.append("differentiated")
        return value, transform(jax.grad(f))(3.0)

    assert numbers(outcome.value) == [9.0, 6.0]
    assert outcome.calls == [3.0, "differentiated", 103.0]


@EAGER_AND_JIT
@flavours.each(flavours.DEBUG)
def test_custom_vjp_prints_of_its_rules_replace_those_of_the_primal(call, transform):
    """custom_vjp: the primal's print is gone once differentiated, the rules' prints appear."""

    @both
    def outcome(library, record):
        @jax.custom_vjp
        def f(x):
            call(library, record, x)
            return x * x

        def forward(x):
            call(library, record, x + 100)
            return x * x, x

        def backward(x, cotangent):
            call(library, record, x + 200)
            return (2 * x * cotangent,)

        f.defvjp(forward, backward)
        value = transform(f)(3.0)
        jax.block_until_ready(value)
        library.effects_barrier()
        record.calls.append("differentiated")
        return value, transform(jax.grad(f))(3.0)

    assert numbers(outcome.value) == [9.0, 6.0]
    if call is flavours.ordered_debug:
        assert outcome.calls == [3.0, "differentiated", 103.0, 203.0]
    assert outcome.sorted_calls == sorted([3.0, "differentiated", 103.0, 203.0], key=repr)


@EAGER_AND_JIT
@flavours.each(flavours.WITH_RESULT)
def test_pure_and_io_inside_custom_rules(call, transform):
    """`jax.custom_jvp` is how callbacks are used while taking gradients."""

    def program(library, record):
        @jax.custom_jvp
        def square(x):
            return call(library, record.of(lambda x: x * x), x)

        @square.defjvp
        def rule(primals, tangents):
            (x,), (t,) = primals, tangents
            slope = library.pure_callback(record.of(lambda x: 2 * x), x, x)
            return square(x), slope * t

        return transform(jax.value_and_grad(square))(jnp.float32(3))

    outcome = both_in_any_order(program)
    assert numbers(outcome.value) == [9.0, 6.0]
    assert outcome.calls == [3.0, 3.0]


def test_second_derivative_through_custom_jvp_of_callbacks():
    """The Bessel example's form: orders of custom_jvp compose over pure callbacks."""

    @both
    def outcome(library, record):
        def power(n, x):
            @jax.custom_jvp
            def f(x):
                return library.pure_callback(lambda x: x**n, x, x, vmap_method="expand_dims")

            @f.defjvp
            def rule(primals, tangents):
                (x,), (t,) = primals, tangents
                return f(x), n * power(n - 1, x) * t

            return f(x)

        second = jax.grad(jax.grad(lambda x: power(3, x)))
        return (
            second(jnp.float32(2)),
            jax.jit(jax.vmap(second))(jnp.arange(3.0)),
            jax.hessian(lambda x: power(4, x))(jnp.float32(1)),
        )

    assert [x.tolist() for x in outcome.value] == [12.0, [0.0, 6.0, 12.0], 12.0]


@EAGER_AND_JIT
@pytest.mark.parametrize("ordered", [False, True])
def test_debug_in_custom_linear_solve_runs_once(transform, ordered):
    """`debug.callback(ordered=True)` in custom_linear_solve runs once, eager and jit."""

    @both
    def outcome(library, record):
        def solve(matvec, b):
            library.debug.callback(record.seen, b, ordered=ordered)
            return b / 2

        def f(b):
            return jax.lax.custom_linear_solve(lambda v: 2 * v, b, solve)

        return transform(f)(jnp.array([2.0, 4.0]))

    assert outcome.value.tolist() == [1.0, 2.0]
    assert outcome.calls == [[2.0, 4.0]]


@flavours.each(flavours.WITH_RESULT)
def test_custom_linear_solve_with_pure_and_io(call):
    """custom_linear_solve with a host solver: forward, and its derivative."""

    def program(library, record):
        def solve(matvec, b):
            return call(library, record, b) / 2

        def f(b):
            return jax.lax.custom_linear_solve(
                lambda v: 2 * v, b, solve, transpose_solve=solve
            ).sum()

        return jax.value_and_grad(f)(jnp.array([2.0, 4.0]))

    outcome = both(program)
    assert outcome.value[0] == 3.0
    assert outcome.value[1].tolist() == [0.5, 0.5]
