"""vmap of pure callbacks: methods, axes, shapes."""

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    EACH_LIBRARY,
    EAGER_AND_JIT,
    both,
    both_in_any_order,
    both_raise,
    run,
)

JaxRuntimeError = jax.errors.JaxRuntimeError
METHODS = ("sequential", "sequential_unrolled", "expand_dims", "broadcast_all")
LANE_BY_LANE = METHODS[:2]
EACH_METHOD = pytest.mark.parametrize("method", METHODS)


def shapes(record):
    """A callback that adds its arguments, and records their shapes."""

    def add(x, y):
        x, y = np.asarray(x), np.asarray(y)
        record.calls.append((x.shape, y.shape))
        return x + y

    return add


def add(library, record, x, y, method):
    """x + y on the host, for x and y of one shape."""
    return library.pure_callback(shapes(record), x, x, y, vmap_method=method)


@EACH_LIBRARY
def test_unknown_method_is_an_error_that_lists_the_methods(library):
    """Unknown method: ValueError that lists the methods."""

    def program(library, record):
        return library.pure_callback(record, 1.0, 1.0, vmap_method="parallel")

    error = run(
        library,
        lambda library, record: library.pure_callback(
            record, jnp.float32(1), 1.0, vmap_method="parallel"
        ),
    ).error
    assert type(error) is ValueError
    assert "parallel" in str(error)
    assert all(method in str(error) for method in METHODS)


@EACH_METHOD
@EAGER_AND_JIT
def test_each_method_batches_both_arguments(method, transform):
    """The batch dimension moves to 0; `sequential`: one call per lane."""
    x = jnp.arange(6.0).reshape(2, 3)

    @both
    def outcome(library, record):
        f = jax.vmap(lambda x, y: add(library, record, x, y, method), in_axes=(1, 0))
        return transform(f)(x, jnp.ones((3, 2)))

    assert outcome.value.tolist() == [[1, 4], [2, 5], [3, 6]]
    expected = [((2,), (2,))] * 3 if method in LANE_BY_LANE else [((3, 2), (3, 2))]
    assert outcome.calls == expected


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("sequential", (2,)),
        ("sequential_unrolled", (2,)),
        ("expand_dims", (1, 2)),
        ("broadcast_all", (3, 2)),
    ],
)
def test_unbatched_operands(method, shape):
    """Unbatched operands: `expand_dims` gives size 1, `broadcast_all` tiles."""

    @both
    def outcome(library, record):
        f = jax.vmap(lambda x, y: add(library, record, x, y, method), in_axes=(0, None))
        return f(jnp.arange(6.0).reshape(3, 2), jnp.array([10.0, 20.0]))

    assert outcome.value.tolist() == [[10, 21], [12, 23], [14, 25]]
    expected = [((2,), shape)] * 3 if method in LANE_BY_LANE else [((3, 2), shape)]
    assert outcome.calls == expected


def test_legacy_vectorized_leaves_unbatched_operands_alone():
    """Unbatched operands: `legacy_vectorized` leaves them."""

    @both
    def outcome(library, record):
        f = jax.vmap(
            lambda x, y: add(library, record, x, y, "legacy_vectorized"), in_axes=(0, None)
        )
        return f(jnp.arange(3.0), 10.0)

    assert outcome.value.tolist() == [10, 11, 12]
    assert outcome.calls == [((3,), ())]


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        ("expand_dims", [((2, 3), (1, 1))]),
        ("broadcast_all", [((2, 3), (2, 3))]),
        ("sequential", [((), ())] * 6),
        ("sequential_unrolled", [((), ())] * 6),
    ],
)
@EAGER_AND_JIT
def test_nested_vmap(method, calls, transform):
    """Nested vmap: (1,1,…)."""

    @both
    def outcome(library, record):
        f = jax.vmap(lambda x, y: add(library, record, x, y, method), in_axes=(0, None))
        f = jax.vmap(f, in_axes=(0, None))
        return transform(f)(jnp.arange(6.0).reshape(2, 3), jnp.float32(1))

    assert outcome.value.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert outcome.calls == calls


@pytest.mark.parametrize(
    ("method", "calls"),
    [("expand_dims", [((1, 3), (2, 1))]), ("broadcast_all", [((2, 3), (2, 3))])],
)
def test_nested_vmap_over_different_operands(method, calls):
    """Nested vmap: an operand has size 1 along the axes that it lacks."""

    @both
    def outcome(library, record):
        f = jax.vmap(lambda x, y: add(library, record, x, y, method), in_axes=(0, None))
        f = jax.vmap(f, in_axes=(None, 0))
        return f(jnp.arange(3.0), jnp.array([10.0, 20.0]))

    assert outcome.value.tolist() == [[10, 11, 12], [20, 21, 22]]
    assert outcome.calls == calls


@pytest.mark.parametrize("method", ["expand_dims", "broadcast_all", "legacy_vectorized"])
def test_the_result_must_have_the_batched_shape(method):
    """The result must have the batched shape, else RuntimeError."""

    def program(library, record):
        def host(x):
            return np.float32(0)

        f = jax.vmap(lambda x: library.pure_callback(host, x, x, vmap_method=method))
        return f(jnp.arange(3.0))

    both_raise(
        program,
        JaxRuntimeError,
        "Incorrect output shape for return value #0: Expected: (3,), Actual: ()",
    )


@pytest.mark.parametrize("method", [*METHODS, None])
def test_no_batched_argument_means_one_unbatched_call(method):
    """No batched argument: one unbatched call."""

    @both
    def outcome(library, record):
        f = jax.vmap(
            lambda x: x + library.pure_callback(record, jnp.float32(0), 7.0, vmap_method=method)
        )
        return f(jnp.arange(3.0))

    assert outcome.value.tolist() == [7, 8, 9]
    assert outcome.calls == [7.0]


@pytest.mark.parametrize("method", LANE_BY_LANE)
@EAGER_AND_JIT
def test_sequential_calls_once_per_lane_in_order(method, transform):
    """`sequential`: one call per lane in order; `sequential_unrolled` likewise."""

    def program(library, record):
        f = jax.vmap(lambda x: library.pure_callback(record, x, x, vmap_method=method))
        return transform(f)(jnp.arange(5.0))

    # JAX's unrolled calls do not depend on each other, and XLA may reorder them.
    outcome = both(program) if method == "sequential" else both_in_any_order(program)
    assert outcome.calls == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("method", METHODS)
def test_several_results_and_keyword_arguments_under_vmap(method):
    """Every result of a batched callback is batched; so are keyword arguments."""

    @both
    def outcome(library, record):
        def host(x, *, y):
            x, y = np.asarray(x), np.asarray(y)
            return {"sum": x + y, "count": (x > y).astype(np.int32)}

        def f(x, y):
            spec = {"sum": x, "count": jax.ShapeDtypeStruct((), np.int32)}
            return library.pure_callback(host, spec, x, y=y, vmap_method=method)

        return jax.vmap(f)(jnp.arange(3.0), jnp.array([2.0, 0.0, 0.0]))

    assert outcome.value["sum"].tolist() == [2, 1, 2]
    assert outcome.value["count"].tolist() == [0, 1, 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("out_axes", [0, 1, -1, None])
def test_out_axes(method, out_axes):
    """vmap's out_axes place the batch dimension of the result."""

    def program(library, record):
        f = jax.vmap(
            lambda x: library.pure_callback(record, x, x, vmap_method=method), out_axes=out_axes
        )
        return f(jnp.arange(6.0).reshape(3, 2))

    if out_axes is None:
        both_raise(program, ValueError, "out_axes")
        return
    outcome = both(program)
    expected = np.arange(6.0).reshape(3, 2)
    assert outcome.value.tolist() == (expected.T if out_axes else expected).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_axis_of_size_zero_and_one(method):
    """A batch of one lane, and an argument without elements in each of three lanes."""

    @both
    def outcome(library, record):
        f = jax.vmap(lambda x: library.pure_callback(record, x, x, vmap_method=method))
        return f(jnp.ones((1, 2))), f(jnp.ones((3, 0)))

    assert [x.shape for x in outcome.value] == [(1, 2), (3, 0)]


@pytest.mark.parametrize("method", METHODS)
def test_vmap_with_axis_name_and_spmd_collective(method):
    """A callback between collectives over the batched axis."""

    @both
    def outcome(library, record):
        def f(x):
            total = jax.lax.psum(x, "i")
            y = library.pure_callback(record, x, x, vmap_method=method)
            return y / total

        return jax.vmap(f, axis_name="i")(jnp.array([1.0, 3.0]))

    assert outcome.value.tolist() == [0.25, 0.75]


def test_lanes_inside_scan_and_scan_inside_lanes():
    """vmap of scan and scan of vmap."""

    @both
    def outcome(library, record):
        def call(x):
            return flavours.pure(library, record, x)

        x = jnp.arange(6.0).reshape(2, 3)
        scanned = jax.vmap(lambda row: jax.lax.scan(lambda c, y: (c, call(y)), 0.0, row)[1])(x)
        lanes = jax.lax.scan(lambda c, row: (c, jax.vmap(call)(row)), 0.0, x)[1]
        return scanned, lanes

    assert outcome.calls == [0, 3, 1, 4, 2, 5, 0, 1, 2, 3, 4, 5]
