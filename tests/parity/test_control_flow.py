"""Control flow: every flavour in scan, while, cond, switch, fori and map, and its order there."""

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EAGER_AND_JIT, both, both_in_any_order
from jax import lax

pytestmark = pytest.mark.sampled(9)

XS = jnp.array([1.0, 2.0, 3.0])


def scan(f, x):
    return lax.scan(lambda carry, y: (carry + f(y), None), x, XS)[0]


# Each program calls f once for each of the expected values, in order.
PROGRAMS = {
    "scan": (scan, [1.0, 2.0, 3.0], 6.0),
    "scan with unroll": (
        lambda f, x: lax.scan(lambda c, y: (c + f(y), None), x, XS, unroll=2)[0],
        [1.0, 2.0, 3.0],
        6.0,
    ),
    "reverse scan": (
        lambda f, x: lax.scan(lambda c, y: (c + f(y), None), x, XS, reverse=True)[0],
        [3.0, 2.0, 1.0],
        6.0,
    ),
    "carry of scan": (
        lambda f, x: lax.scan(lambda c, _: (f(c) + 1, None), x, length=3)[0],
        [0.0, 1.0, 2.0],
        3.0,
    ),
    "nested scan": (
        lambda f, x: lax.scan(lambda c, y: (c + scan(f, y), None), x, jnp.zeros(2))[0],
        [1.0, 2.0, 3.0] * 2,
        12.0,
    ),
    "while body": (
        lambda f, x: lax.while_loop(lambda c: c < 3, lambda c: f(c) + 1, x),
        [0.0, 1.0, 2.0],
        3.0,
    ),
    "while condition": (
        lambda f, x: lax.while_loop(lambda c: f(c) < 3, lambda c: c + 1, x),
        [0.0, 1.0, 2.0, 3.0],
        3.0,
    ),
    "while both": (
        lambda f, x: lax.while_loop(lambda c: f(c) < 2, lambda c: f(c + 10) - 9, x),
        [0.0, 10.0, 1.0, 11.0, 2.0],
        2.0,
    ),
    "cond true": (lambda f, x: lax.cond(x < 1, f, lambda x: f(x + 1), x), [0.0], 0.0),
    "cond false": (lambda f, x: lax.cond(x > 1, f, lambda x: f(x + 1), x), [1.0], 1.0),
    "switch": (
        lambda f, x: lax.switch(2 + x.astype(int), [f, lambda x: f(x + 1), lambda x: f(x + 2)], x),
        [2.0],
        2.0,
    ),
    "fori": (lambda f, x: lax.fori_loop(0, 3, lambda i, c: f(c) + i, x), [0.0, 0.0, 1.0], 3.0),
    "fori with unroll": (
        lambda f, x: lax.fori_loop(0, 4, lambda i, c: f(c) + i, x, unroll=2),
        [0.0, 0.0, 1.0, 3.0],
        6.0,
    ),
    "fori with dynamic bound": (
        lambda f, x: lax.fori_loop(0, 3 + x.astype(int), lambda i, c: f(c) + i, x),
        [0.0, 0.0, 1.0],
        3.0,
    ),
    "cond in scan": (
        lambda f, x: lax.scan(
            lambda c, y: (c + lax.cond(y > 1.5, f, lambda y: -y, y), None), x, XS
        )[0],
        [2.0, 3.0],
        4.0,
    ),
    "nested jit": (lambda f, x: jax.jit(jax.jit(f))(x) + jax.jit(f)(x + 1), [0.0, 1.0], 1.0),
}


@pytest.mark.parametrize("name", PROGRAMS)
@flavours.each(flavours.ALL)
@EAGER_AND_JIT
def test_every_flavour_is_allowed_in_control_flow(name, call, transform):
    """Allowed in cond, switch, scan, while (cond and body), fori with unroll."""
    program, calls, value = PROGRAMS[name]

    def run_program(library, record):
        f = transform(lambda x: program(lambda y: call(library, record, y), x))
        return f(jnp.float32(0))

    ordered = call in (flavours.ordered_io, flavours.ordered_debug)
    outcome = both(run_program) if ordered else both_in_any_order(run_program)
    assert outcome.value == value
    if ordered:
        assert outcome.calls == calls
    assert sorted(outcome.calls) == sorted(calls)


@pytest.mark.parametrize("ordered", [False, True])
def test_a_print_in_a_while_condition_runs_once_more_than_the_body(ordered):
    """A while-cond print runs n+1 times."""

    @both
    def outcome(library, record):
        def condition(x):
            library.debug.print("condition {}", x, ordered=ordered)
            return x < 3

        return jax.jit(lambda x: lax.while_loop(condition, lambda x: x + 1, x))(0)

    assert outcome.value == 3
    assert outcome.printed == ["condition 0", "condition 1", "condition 2", "condition 3"]


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("call", [flavours.pure, flavours.io, flavours.debug])
def test_lax_map(call, batch_size):
    """map, also in batches."""

    @both_in_any_order
    def outcome(library, record):
        return lax.map(lambda x: call(library, record, x) * 2, XS, batch_size=batch_size)

    assert outcome.value.tolist() == [2.0, 4.0, 6.0]
    assert outcome.sorted_calls == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("call", [flavours.ordered_io, flavours.ordered_debug])
def test_order_holds_between_loops_branches_and_straight_code(call):
    """Ordered callbacks run in program order under jit, scan, while, cond, nested jit."""

    @both
    def outcome(library, record):
        def f(x):
            return call(library, record, x)

        @jax.jit
        def program(x):
            f(x)
            lax.scan(lambda c, y: (c, f(y)), 0.0, XS)
            f(x + 10)
            lax.cond(x < 1, lambda: f(x + 20), lambda: f(x + 30))
            jax.jit(f)(x + 40)
            lax.while_loop(lambda c: f(c) < 51, lambda c: f(c + 1), x + 50)
            f(x + 60)

        program(0.0)
        f(jnp.float32(70))

    expected = [0.0, 1.0, 2.0, 3.0, 10.0, 20.0, 40.0, 50.0, 51.0, 51.0, 60.0, 70.0]
    assert outcome.calls == expected


def test_ordered_io_results_feed_a_generator():
    """The guide's host random generator: an ordered callback with state, in a scan."""

    @both
    def outcome(library, record):
        state = iter(range(100))

        def draw():
            return np.int32(next(state))

        def body(carry, _):
            x = library.io_callback(draw, jax.ShapeDtypeStruct((), np.int32), ordered=True)
            return carry, x

        return jax.jit(lambda: lax.scan(body, 0, length=4)[1])()

    assert outcome.value.tolist() == [0, 1, 2, 3]


def test_associative_scan_and_reduce_with_pure():
    """A pure callback inside associative_scan."""

    @both
    def outcome(library, record):
        def add(x, y):
            return library.pure_callback(np.add, x, x, y, vmap_method="expand_dims")

        return lax.associative_scan(jax.vmap(add), XS)

    assert outcome.value.tolist() == [1.0, 3.0, 6.0]
