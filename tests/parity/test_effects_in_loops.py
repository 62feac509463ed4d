"""Callbacks in loops under reverse mode: as often, with the same values, as without derivatives.

JAX's own fall short of this (they run once, or never), so the undifferentiated program is what each is
compared with.
"""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import callbax
from callbax import debug

pytestmark = pytest.mark.sampled(8)

SCALAR = jax.ShapeDtypeStruct((), np.float32)
STEPS = 3


class Streams:
    """Host functions that count: each returns the number of its call, and remembers arguments."""

    def __init__(self):
        self.calls = collections.defaultdict(list)

    def of(self, name):
        def next_value(*args):
            self.calls[name].append([np.asarray(arg).tolist() for arg in args])
            return np.float32(len(self.calls[name]))

        return next_value


def io(function, *args):
    return callbax.io_callback(function, SCALAR, *args)


def ordered_io(function, *args):
    return callbax.io_callback(function, SCALAR, *args, ordered=True)


def io_without_result(function, *args):
    callbax.io_callback(lambda *args: function(*args) and None, None, *args)
    return 1.0


def debug_callback(function, *args):
    debug.callback(function, *args)
    return 1.0


def ordered_debug(function, *args):
    debug.callback(function, *args, ordered=True)
    return 1.0


FLAVOURS = (io, ordered_io, io_without_result, debug_callback, ordered_debug)


def body(call, streams):
    """A step of a loop, with a callback for each thing that arguments may depend on."""

    def step(weight, carry, i):
        total, count = carry
        factor = (
            call(streams.of("nothing"))
            + call(streams.of("constant"), jnp.float32(7))
            + call(streams.of("index"), i)
            + call(streams.of("carry"), count)
            + call(streams.of("stopped"), jax.lax.stop_gradient(total))
        )
        return (total + jnp.sin(weight * factor), count + 1), factor

    return step


def start(weight):
    return 0 * weight, jnp.int32(0)


def scan(step, weight):
    carry, _ = jax.lax.scan(lambda c, i: step(weight, c, i), start(weight), jnp.arange(STEPS))
    return carry[0]


def unrolled_scan(step, weight):
    carry, _ = jax.lax.scan(
        lambda c, i: step(weight, c, i), start(weight), jnp.arange(STEPS), unroll=2
    )
    return carry[0]


def fori(step, weight):
    return jax.lax.fori_loop(0, STEPS, lambda i, c: step(weight, c, i)[0], start(weight))[0]


def nested(step, weight):
    def outer(carry, _):
        return jax.lax.scan(lambda c, i: step(weight, c, i), carry, jnp.arange(STEPS))

    return jax.lax.scan(outer, start(weight), None, length=2)[0][0]


def with_cond(step, weight):
    def maybe(carry, i):
        return jax.lax.cond(i % 2 == 0, lambda c: step(weight, c, i)[0], lambda c: c, carry), None

    return jax.lax.scan(maybe, start(weight), jnp.arange(STEPS))[0][0]


def with_while(step, weight):
    """Its inner loop sees no differentiated value that counts."""

    def outer(carry, i):
        total, count = carry

        def inner(state):
            k, factors = state
            _, factor = step(*jax.lax.stop_gradient((weight, (total, count))), i)
            return k + 1, factors + factor

        _, factor = jax.lax.while_loop(lambda state: state[0] < 2, inner, (0, jnp.float32(0)))
        return (total + jnp.sin(weight * factor), count + 1), None

    return jax.lax.scan(outer, start(weight), jnp.arange(STEPS))[0][0]


def mapped(step, weight):
    return jnp.sum(jax.lax.map(lambda i: step(weight, (weight, i), i)[0][0], jnp.arange(STEPS)))


def jitted(step, weight):
    return scan(jax.jit(step), weight)


def with_custom_rule(step, weight):
    square = jax.custom_jvp(lambda x: x * x)
    square.defjvp(lambda primals, tangents: (square(*primals), 2 * primals[0] * tangents[0]))

    def outer(weight, carry, i):
        (total, count), factor = step(weight, carry, i)
        return (square(total), count), factor

    return scan(outer, weight)


LOOPS = (
    unrolled_scan, fori, nested, with_cond, with_while, mapped, jitted, with_custom_rule
)  # fmt: skip


def vjp(f):
    def transformed(x):
        value, pull = jax.vjp(f, x)
        return value, pull(jnp.ones_like(value))[0]

    return transformed


def linearize(f):
    def transformed(x):
        value, push = jax.linearize(f, x)
        push(x)
        return value, push(jnp.ones_like(x))

    return transformed


def value_of(transform):
    """A transformation that gives no value: its derivative with None in the value's place."""
    return lambda f: lambda x: (None, transform(f)(x))


def second_order(f):
    def transformed(x):
        jax.hessian(f)(x)
        return None, None

    return transformed


TRANSFORMS = {
    "value_and_grad": jax.value_and_grad,
    "vjp": vjp,
    "linearize": linearize,
    "grad": value_of(jax.grad),
    "jacrev": value_of(jax.jacrev),
    "hessian": second_order,
    "grad of jit": lambda f: jax.value_and_grad(jax.jit(f)),
}


def observed(program, streams, x):
    """The program's value, and the calls that it made, by what their arguments depend on."""
    streams.calls.clear()
    value = jax.block_until_ready(program(x))
    callbax.effects_barrier()
    return value, dict(streams.calls)


def check(loop, call, transform, compile_with=jax.jit):
    streams, x = Streams(), jnp.float32(1.5)

    def loss(weight):
        return loop(body(call, streams), weight)

    expected, calls = observed(compile_with(lambda x: jax.jvp(loss, (x,), (1.0,))), streams, x)
    actual, transformed_calls = observed(compile_with(transform(loss)), streams, x)
    assert transformed_calls == calls
    for left, right in zip(expected, actual, strict=True):
        if right is not None:
            np.testing.assert_allclose(left, right, rtol=1e-5)
    return calls


each_flavour = pytest.mark.parametrize("call", FLAVOURS, ids=lambda call: call.__name__)


@each_flavour
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_callbacks_run_once_a_step_in_reverse_mode(transform, call):
    """8. Effects in loops under reverse mode run once per iteration."""
    calls = check(scan, call, transform)
    assert [len(made) for made in calls.values()] == [STEPS] * 5
    assert calls["index"] == [[0], [1], [2]]


@each_flavour
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_callbacks_run_once_a_step_in_every_loop(loop, call):
    """8. Effects in loops under reverse mode run once per iteration: scan, fori, nested scans."""
    check(loop, call, jax.value_and_grad)


@each_flavour
def test_callbacks_run_once_a_step_without_jit(call):
    check(scan, call, jax.value_and_grad, compile_with=lambda f: f)


@pytest.mark.parametrize("call", [io, debug_callback, ordered_debug], ids=lambda c: c.__name__)
@pytest.mark.parametrize("inside", [True, False], ids=["grad of vmap", "vmap of grad"])
def test_callbacks_run_once_a_step_and_lane(inside, call):
    streams, xs = Streams(), jnp.float32([0.5, 1.5])

    def loss(weight):
        return scan(body(call, streams), weight)

    def batched(xs):
        return jnp.sum(jax.vmap(loss)(xs))

    _, calls = observed(jax.jit(batched), streams, xs)
    transformed = jax.grad(batched) if inside else jax.vmap(jax.grad(loss))
    _, transformed_calls = observed(jax.jit(transformed), streams, xs)
    for name in ("nothing", "constant", "index", "carry"):
        assert transformed_calls[name] == calls[name]
        assert len(calls[name]) == STEPS
    assert len(transformed_calls["stopped"]) == len(calls["stopped"]) == 2 * STEPS


@pytest.mark.parametrize("policy", ["nothing_saveable", "everything_saveable"])
@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
def test_debug_callbacks_in_a_checkpointed_loop_follow_the_policy(ordered, policy):
    """What does not depend on the step is not moved out of the loop: it is as often as in a step."""
    seen = collections.Counter()

    def step(total, x):
        for name, value in (("constant", ()), ("step", (x,))):
            debug.callback(lambda *_, name=name: seen.update([name]), *value, ordered=ordered)
        return total + jnp.sin(total * x), None

    def loss(weight):
        return jax.lax.scan(step, weight, jnp.arange(3.0))[0]

    checkpointed = jax.checkpoint(loss, policy=getattr(jax.checkpoint_policies, policy))
    jax.block_until_ready(jax.jit(jax.grad(checkpointed))(1.0))
    callbax.effects_barrier()
    assert seen["constant"] == seen["step"]
    assert seen["step"] % 3 == 0


def while_loop(step, weight):
    def condition(state):
        return state[0] < STEPS

    def next_state(state):
        i, carry = state
        return i + 1, step(weight, carry, i)[0]

    return jax.lax.while_loop(condition, next_state, (0, start(weight)))[1][0]


@pytest.mark.parametrize(
    "call", [io_without_result, debug_callback, ordered_debug], ids=lambda call: call.__name__
)
@pytest.mark.parametrize("compile_with", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_the_linear_function_of_a_while_loop_does_not_call_again(call, compile_with):
    """8. Effects in loops run once per iteration in `linearize`."""
    check(while_loop, call, linearize, compile_with)


def test_a_while_loop_whose_linear_function_needs_a_result_is_refused():
    def f(x):
        return while_loop(body(io, Streams()), x)

    with pytest.raises(NotImplementedError, match=r"linear function of a while_loop.*next_value"):
        jax.linearize(f, 1.0)


def test_results_that_the_linear_function_does_not_need_are_no_obstacle():
    """A number of draws, next to what is differentiated."""
    streams = Streams()

    def f(x):
        def next_state(state):
            i, total, y = state
            return i + 1, total + io(streams.of("draw")), jnp.sin(y) * x

        return jax.lax.while_loop(lambda s: s[0] < STEPS, next_state, (0, jnp.float32(0), x))[1:]

    (total, _), push = jax.linearize(f, 1.0)
    _, tangent = push(1.0)
    assert (float(total), len(streams.calls["draw"])) == (6.0, STEPS)
    np.testing.assert_allclose(tangent, jax.jvp(f, (1.0,), (1.0,))[1][1], rtol=1e-5)


def test_debug_callbacks_in_the_condition_of_a_linearized_while_loop():
    seen = []

    def f(x):
        def condition(state):
            debug.callback(lambda i: seen.append(int(i)), state[0])
            return state[0] < 2

        return jax.lax.while_loop(condition, lambda s: (s[0] + 1, s[1] * x), (0, x))[1]

    value, push = jax.linearize(f, 2.0)
    assert (value, push(1.0)) == (8.0, 12.0)
    callbax.effects_barrier()
    assert seen == [0, 1, 2]


def test_tangents_that_debug_callbacks_show_are_still_shown():
    seen = []

    @jax.custom_jvp
    def f(x):
        return x

    @f.defjvp
    def _(primals, tangents):
        debug.callback(lambda t: seen.append(float(t)), tangents[0])
        return primals[0], 2 * tangents[0]

    def loop(x):
        return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, f(s[1])), (0, x))[1]

    _, push = jax.linearize(loop, 1.0)
    push(1.0)
    callbax.effects_barrier()
    assert seen == [1.0, 2.0]


def pure(function, *args):
    return callbax.pure_callback(function, SCALAR, *args)


@pytest.mark.parametrize("call", [None, pure, io, debug_callback])
def test_only_loops_with_effects_stay_whole(call):
    """What does not depend on the step is computed before the loop, as JAX has it."""

    def loss(weight):
        def step(total, i):
            factor = 1.0 if call is None else call(lambda *_: np.float32(1), i)
            return total * jnp.sin(weight) * factor, None

        return jax.lax.scan(step, 1.0, jnp.arange(STEPS))[0]

    program = jax.make_jaxpr(jax.grad(loss))(2.0)
    moved = "sin" in {equation.primitive.name for equation in program.jaxpr.eqns}
    assert moved == (call in (None, pure))


@pytest.mark.parametrize(
    "transform, call",
    [(lambda f: f, io), (lambda f: f, ordered_debug), (jax.checkpoint, debug_callback)],
)
def test_constants_of_a_loop_may_be_tracers_of_its_body(transform, call):
    """A derivative rule closes over a constant that the loop's body has made."""

    def body(x):
        two = jnp.float32(2)

        @jax.custom_vjp
        def twice(x):
            return two * x

        twice.defvjp(lambda x: (two * x, None), lambda _, cotangent: (2 * cotangent,))
        call(lambda *_: np.float32(1), jax.lax.stop_gradient(twice(x)))
        return twice(x) ** 2

    loss = transform(lambda x: jax.lax.map(body, jnp.stack([x, x])).sum())
    assert jax.grad(loss)(3.0) == 48
