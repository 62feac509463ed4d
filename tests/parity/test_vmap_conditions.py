"""Callbacks in cond, switch and while_loop under vmap.

JAX refuses what its rules cannot tell apart; where the predicate is the same for all lanes there is
only one meaning, and the undifferentiated, unbatched program shows it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CALLBAX, EAGER_AND_JIT, JAX, both, run

import callbax

XS = jnp.arange(3.0)
SCALAR = jax.ShapeDtypeStruct((), np.float32)


def io(record, *args, ordered=False):
    def host(*args):
        record.seen(*args)
        return np.float32(10)

    return callbax.io_callback(host, SCALAR, *args, ordered=ordered)


def outcome_of(transform, f, *args, in_axes=(None, 0)):
    """Runs `vmap` of f(record, *args)."""

    def program(_, record):
        mapped = jax.vmap(lambda *args: f(record, *args), in_axes=in_axes)
        return transform(mapped)(*args)

    outcome = run(CALLBAX, program)
    if outcome.error is not None:
        raise outcome.error
    return outcome


@EAGER_AND_JIT
@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
@pytest.mark.parametrize("flag", [True, False])
def test_io_runs_once_in_cond_if_nothing_is_batched(transform, ordered, flag):
    """9. With an unbatched predicate they run, once if none of their arguments is batched."""

    def f(record, flag, x):
        return x + jax.lax.cond(flag, lambda: io(record, 7, ordered=ordered), lambda: 0.0)

    outcome = outcome_of(transform, f, flag, XS)
    assert outcome.calls == [7] * flag
    assert outcome.value.tolist() == (XS + 10 * flag).tolist()


@EAGER_AND_JIT
def test_io_runs_lane_by_lane_in_cond_if_an_argument_is_batched(transform):
    """9. With an unbatched predicate they run, else lane by lane."""

    def f(record, flag, x):
        return jax.lax.cond(flag, lambda x: x + io(record, x), lambda x: x, x)

    assert outcome_of(transform, f, True, XS).calls == [0.0, 1.0, 2.0]
    assert outcome_of(transform, f, False, XS).calls == []


@EAGER_AND_JIT
def test_ordered_io_with_a_batched_argument_keeps_jaxs_refusal(transform):
    """9. Ordered io keeps JAX's refusal under vmap."""

    def in_cond(record, flag, x):
        return jax.lax.cond(flag, lambda x: io(record, x, ordered=True), lambda x: x, x)

    def in_while(record, n, x):
        return jax.lax.while_loop(
            lambda state: state[0] < n,
            lambda state: (state[0] + 1, io(record, state[1], ordered=True)),
            (0, x),
        )

    for f in (in_cond, in_while):
        with pytest.raises(ValueError, match="Cannot `vmap` ordered IO callback"):
            outcome_of(transform, f, 1, XS)


@EAGER_AND_JIT
def test_io_in_a_switch(transform):
    def f(record, index, x):
        branches = [lambda x: x, lambda x: x + io(record), lambda x: x + io(record, x)]
        return jax.lax.switch(index, branches, x)

    assert outcome_of(transform, f, 0, XS).calls == []
    assert outcome_of(transform, f, 1, XS).calls == [()]
    assert outcome_of(transform, f, 2, XS).calls == [0.0, 1.0, 2.0]


@EAGER_AND_JIT
@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
def test_io_in_body_and_condition_of_a_while_loop(transform, ordered):
    """9. With an unbatched predicate they run in while_loop, in body and condition."""

    def f(record, n, x):
        def condition(state):
            return state[0] * io(record, state[0], ordered=ordered) < 10 * n

        def body(state):
            return state[0] + 1, state[1] + io(record, -state[0], ordered=ordered)

        return jax.lax.while_loop(condition, body, (1.0, x))[1]

    outcome = outcome_of(transform, f, 3.0, XS)
    assert outcome.value.tolist() == (XS + 20).tolist()
    assert outcome.calls == [1, -1, 2, -2, 3]


def test_conditions_in_conditions_and_loops():
    def f(record, flag, x):
        def step(x, i):
            def inner(x):
                return jax.lax.cond(flag, lambda x: x + io(record, i), lambda x: x, x)

            return jax.lax.cond(i % 2 == 0, inner, lambda x: x, x), None

        x, _ = jax.lax.scan(step, x, jnp.arange(5))
        return jax.lax.cond(
            flag,
            lambda x: jax.lax.while_loop(lambda x: False, lambda x: x + io(record, x), x),
            lambda x: x,
            x,
        )

    outcome = outcome_of(jax.jit, f, True, XS)
    assert outcome.calls == [0, 2, 4]
    assert outcome.value.tolist() == (XS + 30).tolist()


def test_nested_vmap_and_gradients_around_a_condition():
    def f(record, flag, x):
        return jax.lax.cond(
            flag, lambda x: x * io(record, jax.lax.stop_gradient(x)), lambda x: x, x
        )

    twice = jnp.arange(6.0).reshape(3, 2)

    def nested(record, flag, row):
        return jax.vmap(lambda x: f(record, flag, x))(row)

    assert outcome_of(jax.jit, nested, True, twice).calls == [0, 2, 4, 1, 3, 5]

    def gradients(record, flag, x):
        return jax.grad(lambda x: f(record, flag, x))(x)

    outcome = outcome_of(jax.jit, gradients, True, XS)
    assert outcome.calls == [0, 1, 2]
    assert outcome.value.tolist() == [10, 10, 10]


@EAGER_AND_JIT
def test_a_batched_predicate_is_an_error_that_names_the_callback_and_the_way_out(transform):
    """9. With a batched predicate a plain `io_callback` is an error of ours, which says so."""

    def in_cond(record, x):
        return jax.lax.cond(x > 1, lambda: io(record), lambda: 0.0)

    def in_while(record, x):
        return jax.lax.while_loop(lambda x: x < 2, lambda x: x + io(record), x)

    for f in (in_cond, in_while):
        with pytest.raises(NotImplementedError, match=r"host \(.*call_where\(predicate"):
            outcome_of(transform, f, XS, in_axes=(0,))


def test_jaxs_own_callbacks_are_left_to_jax():
    def program(library, record):
        def f(x):
            return jax.lax.cond(True, lambda: library.io_callback(record, x, x), lambda: x)

        return jax.vmap(f)(XS)

    assert "IO effect not supported in vmap-of-cond" in str(run(JAX, program).error)


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
def test_debug_callbacks_in_an_unbatched_condition(ordered):
    @both
    def outcome(library, record):
        def f(flag, x):
            def show(x):
                return library.debug.callback(record.seen, x, ordered=ordered)

            jax.lax.cond(flag, show, lambda x: None, x)
            return x

        return jax.vmap(f, in_axes=(None, 0))(True, XS)

    assert outcome.sorted_calls == [0.0, 1.0, 2.0]
