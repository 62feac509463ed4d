"""vmap of io and debug callbacks, and batched control flow around them."""

import flavours
import jax
import jax.numpy as jnp
import pytest
from helpers import EAGER_AND_JIT, LIBRARIES, both, both_in_any_order, both_raise, run

JaxRuntimeError = jax.errors.JaxRuntimeError
METHODS = ("sequential", "sequential_unrolled", "expand_dims", "broadcast_all")


@EAGER_AND_JIT
def test_unordered_io_runs_lanes_per_callback(transform):
    """io unordered: append(x), append(2x) over 3 lanes gives 0 1 2 0 2 4."""

    def program(library, record):
        def f(x):
            library.io_callback(record.seen, None, x)
            library.io_callback(record.seen, None, 2 * x)

        transform(jax.vmap(f))(jnp.arange(3))

    outcome = both(program) if transform is not jax.jit else both_in_any_order(program)
    assert outcome.sorted_calls == [0, 0, 1, 2, 2, 4]
    if transform is not jax.jit:
        assert outcome.calls == [0, 1, 2, 0, 2, 4]


def test_unordered_io_under_vmap_keeps_lane_results():
    """io unordered: each lane gets its own result."""

    @both
    def outcome(library, record):
        return jax.vmap(lambda x: flavours.io(library, record, x) * 2)(jnp.arange(3))

    assert outcome.value.tolist() == [0, 2, 4]
    assert outcome.sorted_calls == [0, 1, 2]


@EAGER_AND_JIT
def test_ordered_io_cannot_be_vmapped(transform):
    """io ordered: ValueError "Cannot `vmap` ordered IO callback."."""

    def program(library, record):
        f = jax.vmap(lambda x: flavours.ordered_io(library, record, x))
        return transform(f)(jnp.arange(3))

    outcome = both_raise(program, ValueError, "Cannot `vmap` ordered IO callback.")
    assert outcome.calls == []


@pytest.mark.parametrize("ordered", [False, True])
def test_vmap_of_cond_with_a_batched_predicate_and_io_is_an_error(ordered):
    """vmap of cond with IO: NotImplementedError "IO effect not supported in vmap-of-cond."."""

    def program(library, record):
        def f(x):
            return jax.lax.cond(
                x > 1,
                lambda x: library.io_callback(record, x, x, ordered=ordered),
                lambda x: x,
                x,
            )

        return jax.vmap(f)(jnp.arange(3))

    outcome = both_raise(program, NotImplementedError, "IO effect not supported in vmap-of-cond.")
    assert outcome.calls == []


@pytest.mark.parametrize("where", ["cond", "body"])
def test_while_with_batched_predicate_and_io_is_an_error(where):
    """A while loop with a batched predicate and IO is not supported either."""

    def program(library, record):
        def io(place, x):
            return flavours.io(library, record, x) if place == where else x

        def f(x):
            return jax.lax.while_loop(lambda x: io("cond", x) < 3, lambda x: io("body", x) + 1, x)

        return jax.vmap(f)(jnp.arange(3))

    phrase = "IO effects not supported in while_loop with batched predicate"
    theirs, ours = (run(library, program) for library in LIBRARIES)
    assert phrase in str(theirs.error)
    assert phrase in str(ours.error)
    assert type(ours.error) is NotImplementedError


def test_while_with_constant_predicate_and_io_works_under_vmap():
    """With a constant predicate it works."""

    @both_in_any_order
    def outcome(library, record):
        def body(state):
            i, x = state
            return i + 1, flavours.io(library, record, x) + 1

        def f(x):
            return jax.lax.while_loop(lambda state: state[0] < 2, body, (0, x))[1]

        return jax.vmap(f)(jnp.arange(0, 30, 10))

    assert outcome.value.tolist() == [2, 12, 22]
    assert outcome.sorted_calls == sorted([0, 10, 20, 1, 11, 21], key=repr)


NESTED = jnp.array([[0, 1], [2, 3], [4, 5]])


@flavours.each(flavours.DEBUG)
@EAGER_AND_JIT
def test_debug_runs_once_per_lane_innermost_axis_first(call, transform):
    """debug: nested vmap over [[0,1],[2,3],[4,5]] prints 0 2 4 1 3 5."""

    def program(library, record):
        transform(jax.vmap(jax.vmap(lambda x: call(library, record, x))))(NESTED)

    unspecified = call is flavours.debug and transform is jax.jit
    outcome = both_in_any_order(program) if unspecified else both(program)
    assert outcome.calls == [0, 2, 4, 1, 3, 5]


@flavours.each(flavours.DEBUG)
@EAGER_AND_JIT
def test_debug_under_nested_vmap_with_in_axes_one_outside(call, transform):
    """debug: with in_axes=1 outside, 0..5."""

    def program(library, record):
        f = jax.vmap(jax.vmap(lambda x: call(library, record, x)), in_axes=1)
        transform(f)(NESTED)

    unspecified = call is flavours.debug and transform is jax.jit
    outcome = both_in_any_order(program) if unspecified else both(program)
    assert outcome.calls == [0, 1, 2, 3, 4, 5]


@flavours.each(flavours.DEBUG)
def test_debug_under_vmap_with_unbatched_arguments(call):
    """debug: once per lane, with what is not batched in each."""

    @both
    def outcome(library, record):
        ordered = call is flavours.ordered_debug

        def f(x, y):
            library.debug.callback(record.seen, x, y, z=x + y, ordered=ordered)

        jax.vmap(f, in_axes=(0, None))(jnp.arange(2), jnp.array([7, 8]))

    assert outcome.calls == [(0, [7, 8], {"z": [7, 8]}), (1, [7, 8], {"z": [8, 9]})]


@flavours.each(flavours.DEBUG)
def test_vmap_of_cond_runs_both_branches_of_debug_for_all_lanes(call):
    """vmap of cond runs both branches for all lanes."""

    @both
    def outcome(library, record):
        def f(x):
            return jax.lax.cond(
                x > 1,
                lambda x: call(library, record, x),
                lambda x: call(library, record, x + 10) - 10,
                x,
            )

        return jax.vmap(f)(jnp.arange(3))

    assert outcome.sorted_calls == sorted([0, 1, 2, 10, 11, 12], key=repr)


def batched_while(library, record, ordered):
    def condition(x):
        library.debug.callback(record.seen, x, ordered=ordered)
        return x < 5

    def f(x):
        return jax.lax.while_loop(condition, lambda x: x + 1, x)

    return jax.jit(jax.vmap(f))(jnp.arange(2))


def test_batched_while_condition_ordered():
    """One call for each lane and step, until all lanes have stopped; in JAX they do not stop."""
    theirs, ours = (
        run(library, lambda library, record: batched_while(library, record, ordered=True))
        for library in LIBRARIES
    )
    assert theirs.calls == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert theirs.value.tolist() == [5, 6]
    assert ours.calls == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    assert ours.value.tolist() == [5, 5]


def test_batched_while_condition_unordered():
    """Batched while-cond print: unordered 22 with 5,5 last."""
    outcome = both_in_any_order(
        lambda library, record: batched_while(library, record, ordered=False)
    )
    assert outcome.value.tolist() == [5, 5]
    assert len(outcome.calls) == 22
    assert outcome.calls[-2:] == [5, 5]
