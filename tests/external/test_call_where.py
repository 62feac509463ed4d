"""call_where: the host sees live lanes only."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import callbax as cb

x = np.arange(6, dtype=np.float32)
LANE_BY_LANE = ["sequential", "sequential_unrolled"]
WHOLE = ["expand_dims", "broadcast_all"]


class Doubling:
    """An external function that doubles, and remembers what the host was called with."""

    def __init__(self, **options):
        self.calls = []

        def double(x, weight=2):
            self.calls.append(np.array(x))
            return x * weight

        self.external = cb.external(double, result=options.pop("result", cb.like(0)), **options)

    @property
    def seen(self):
        return sorted(value for call in self.calls for value in np.ravel(call).tolist())


@pytest.mark.parametrize("method", LANE_BY_LANE)
def test_one_call_for_each_live_lane(method):
    f = Doubling(vmap_method=method)
    actual = jax.jit(jax.vmap(lambda x: f.external.call_where(x > 2, x, otherwise=-1)))(x)
    np.testing.assert_array_equal(actual, [-1, -1, -1, 6, 8, 10])
    assert f.seen == [3, 4, 5]
    assert all(call.shape == () for call in f.calls)


@pytest.mark.parametrize("method", WHOLE)
def test_one_call_with_the_live_lanes_stacked(method):
    f = Doubling(vmap_method=method)
    call = jax.jit(jax.vmap(lambda x: f.external.call_where(x % 2 == 0, x)))
    np.testing.assert_array_equal(call(x), [0, 0, 4, 0, 8, 0])
    assert [c.tolist() for c in f.calls] == [[0, 2, 4]]


@pytest.mark.parametrize("method", WHOLE)
def test_arguments_that_all_lanes_share(method):
    seen = []

    def add(x, shared):
        seen.append((x.shape, shared.shape))
        return x + shared

    f = cb.external(add, result=cb.like(0), vmap_method=method)
    shared = jnp.ones(2)
    actual = jax.vmap(lambda x: f.call_where(x[0] > 2, x, shared))(x.reshape(3, 2))
    np.testing.assert_array_equal(actual, [[0, 0], [0, 0], [5, 6]])
    both = (3, 2) if method == "broadcast_all" else (1, 2)
    actual = jax.vmap(lambda x: f.call_where(x[0] >= 0, x, shared))(x.reshape(3, 2))
    np.testing.assert_array_equal(actual, x.reshape(3, 2) + 1)
    assert seen == [((1, 2), (1, 2)), ((3, 2), both)]


@pytest.mark.parametrize("method", LANE_BY_LANE + WHOLE)
def test_without_a_live_lane_the_host_is_not_called(method):
    f = Doubling(vmap_method=method)
    actual = jax.vmap(lambda x: f.external.call_where(x > 9, x, otherwise=x + 1))(x)
    np.testing.assert_array_equal(actual, x + 1)
    assert f.calls == []


@pytest.mark.parametrize("method", LANE_BY_LANE + WHOLE)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_single_call(method, transform):
    f = Doubling(vmap_method=method)
    call = transform(lambda m, x: f.external.call_where(m, x, otherwise=x - 1))
    np.testing.assert_array_equal(call(False, x), x - 1)
    assert f.calls == []
    np.testing.assert_array_equal(call(True, x), 2 * x)
    assert [c.tolist() for c in f.calls] == [x.tolist()]


@pytest.mark.parametrize("method", LANE_BY_LANE + WHOLE)
def test_nested_vmap(method):
    f = Doubling(vmap_method=method)
    rows, columns = np.arange(3.0, dtype=np.float32), np.arange(4.0, dtype=np.float32)

    def call(row, column):
        return f.external.call_where(row * column > 3, row + 10 * column, otherwise=-1)

    over_all = jax.vmap(jax.vmap(call, (None, 0)), (0, None))
    expected = np.where(
        np.outer(rows, columns) > 3, 2 * (rows[:, None] + 10 * columns), np.float32(-1)
    )
    np.testing.assert_array_equal(jax.jit(over_all)(rows, columns), expected)
    assert f.seen == sorted((rows[:, None] + 10 * columns)[expected >= 0].tolist())


def test_mask_that_only_one_of_two_vmaps_has():
    f = Doubling()
    call = jax.vmap(jax.vmap(f.external.call_where, (None, 0)), (0, 0))
    actual = call(np.array([True, False]), x.reshape(2, 3))
    np.testing.assert_array_equal(actual, [[0, 2, 4], [0, 0, 0]])
    assert f.seen == [0, 1, 2]


def test_in_a_batched_cond_the_other_branchs_lanes_stay_away():
    f = Doubling()

    def step(x):
        live = x > 3
        return lax.cond(live, lambda x: f.external.call_where(live, x), lambda x: -x, x)

    np.testing.assert_array_equal(jax.jit(jax.vmap(step))(x), [0, -1, -2, -3, 8, 10])
    assert f.seen == [4, 5]


def test_in_a_batched_while_loop_finished_lanes_stay_away():
    f = Doubling()

    def run(x):
        def body(x):
            return f.external.call_where(x < 10, x, otherwise=x)

        return lax.while_loop(lambda x: x < 10, body, x)

    np.testing.assert_array_equal(jax.jit(jax.vmap(run))(x[1:]), [16, 16, 12, 16, 10])
    assert f.seen == sorted([1, 2, 4, 8, 2, 4, 8, 3, 6, 4, 8, 5])


def test_effects():
    f = Doubling(effects="io")
    actual = jax.jit(jax.vmap(lambda x: f.external.call_where(x > 3, x)))(x)
    np.testing.assert_array_equal(actual, [0, 0, 0, 0, 8, 10])
    assert f.seen == [4, 5]
    ordered = Doubling(effects="ordered")

    def step(carry, x):
        return carry, ordered.external.call_where(x > 3, x)

    np.testing.assert_array_equal(lax.scan(step, 0, x)[1], [0, 0, 0, 0, 8, 10])
    assert [c.tolist() for c in ordered.calls] == [4, 5]
    with pytest.raises(ValueError, match="Cannot `vmap` ordered IO callback"):
        jax.vmap(lambda x: ordered.external.call_where(x > 3, x))(x)


def test_effects_under_batched_predicates():
    """9. With a batched predicate `call_where` works for effects="io"."""
    f = Doubling(effects="io")

    def loop(x):
        return lax.while_loop(
            lambda x: x < 10, lambda x: f.external.call_where(x < 10, x, otherwise=x), x
        )

    np.testing.assert_array_equal(jax.jit(jax.vmap(loop))(x[1:]), [16, 16, 12, 16, 10])
    cb.effects_barrier()
    assert f.seen == sorted([1, 2, 4, 8, 2, 4, 8, 3, 6, 4, 8, 5])

    f = Doubling(effects="io")

    def condition(x):
        return lax.cond(x > 3, lambda x: f.external.call_where(x > 3, x), lambda x: -x, x)

    np.testing.assert_array_equal(jax.vmap(condition)(x), [0, -1, -2, -3, 8, 10])
    assert f.seen == [4, 5]


def test_signature_masks_have_the_batch_dimensions():
    seen = []

    @cb.external(signature="(n),(n)->()")
    def dot(a, b):
        seen.append(a.tolist())
        return a @ b

    a = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    mask = np.array([True, False, True])
    actual = jax.jit(dot.call_where)(mask, a, a[0, 0] + 1, otherwise=np.float32([[1], [2]]))
    expected = np.where(mask, a @ (a[0, 0] + 1), np.float32([[1], [2]]))
    np.testing.assert_array_equal(actual, expected)
    assert sorted(seen) == a[:, mask].reshape(-1, 2).tolist()


def test_elementwise_masks_have_the_shape_of_the_arguments():
    f = Doubling(result="broadcast")
    actual = jax.jit(f.external.call_where)(x > 3, x, np.float32([[3], [4]]), otherwise=-1)
    np.testing.assert_array_equal(actual, [[-1, -1, -1, -1, 12, 15], [-1, -1, -1, -1, 16, 20]])
    assert len(f.calls) == 1
    assert f.seen == [4, 4, 5, 5]


def test_trees_and_several_results():
    result = {"a": jax.ShapeDtypeStruct((2,), np.float32), "b": jax.ShapeDtypeStruct((), np.int32)}
    f = cb.external(lambda x: {"a": np.float32([x, x]), "b": np.int32(7)}, result=result)
    call = jax.vmap(lambda x: f.call_where(x > 4, x, otherwise={"a": 1.5, "b": -1}))
    actual = call(x)
    np.testing.assert_array_equal(actual["a"], [[1.5, 1.5]] * 5 + [[5, 5]])
    np.testing.assert_array_equal(actual["b"], [-1] * 5 + [7])


def test_out_and_zero_copy():
    @cb.external(result=cb.like(0), out=True, zero_copy=True)
    def double(x, out=None):
        np.multiply(x, 2, out=out)

    actual = jax.jit(jax.vmap(lambda x: double.call_where(x > 2, x, otherwise=-1)))(x)
    np.testing.assert_array_equal(actual, [-1, -1, -1, 6, 8, 10])
    whole = cb.external(double.function, result=cb.like(0), out=True, vmap_method="expand_dims")
    actual = jax.jit(jax.vmap(lambda x: whole.call_where(x > 2, x, otherwise=-1)))(x)
    np.testing.assert_array_equal(actual, [-1, -1, -1, 6, 8, 10])


def test_nothing_is_traced_twice():
    f = Doubling()
    traces = []

    @jax.jit
    def call(x):
        traces.append(1)
        return jax.vmap(lambda x: f.external.call_where(x > 2, x))(x)

    for _ in range(3):
        call(x)
    assert len(traces) == 1
    with jax.log_compiles(False), count_compiles() as compiled:
        for _ in range(3):
            f.external.call_where(True, x)
    assert compiled() <= 2  # of the call, and of what makes an array of the mask


@contextlib.contextmanager
def count_compiles():
    names = []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: len(names)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_bad_masks_and_otherwise():
    f = Doubling()
    with pytest.raises(TypeError, match=r"mask of call_where of .*double.* is of dtype float32"):
        f.external.call_where(x[0], x)
    with pytest.raises(ValueError, match=r"mask of call_where of .*double.*must be a scalar"):
        f.external.call_where(x > 2, x)
    with pytest.raises(TypeError, match=r"otherwise= of call_where of .*double.*structure"):
        f.external.call_where(True, x, otherwise=(x, x))
    with pytest.raises(TypeError, match=r"otherwise= of call_where of .*double.*complex64"):
        f.external.call_where(True, x, otherwise=np.complex64(1j))
    with pytest.raises(ValueError, match=r"otherwise= of call_where of .*double.*shape \(7,\)"):
        f.external.call_where(True, x, otherwise=np.zeros(7, np.float32))


def test_a_wrong_result_names_the_lane():
    f = cb.external(lambda x: np.zeros(2, np.float32), result=cb.like(0))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"in lane 3 of a batch of 6"):
        jax.vmap(lambda x: f.call_where(x > 2, x))(x).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"lane \(1, 0\) of a batch of 2 x 3"):
        jax.vmap(jax.vmap(lambda x: f.call_where(x > 2, x)))(x.reshape(2, 3)).block_until_ready()


@pytest.mark.parametrize("method", [*LANE_BY_LANE, *WHOLE, "threads"])
def test_only_the_mask_has_lanes(method):
    f = Doubling(vmap_method=method)
    mask = np.array([True, False, True])
    actual = jax.vmap(lambda live: f.external.call_where(live, x, otherwise=-1))(mask)
    np.testing.assert_array_equal(actual, np.where(mask[:, None], 2 * x, -1))
    constant = cb.external(lambda: np.float32(3), result=x[0], vmap_method=method)
    np.testing.assert_array_equal(jax.vmap(constant.call_where)(mask), [3, 0, 3])


def test_the_default_otherwise_fits_booleans():
    f = cb.external(np.logical_not, result=cb.like(0))
    np.testing.assert_array_equal(
        jax.vmap(f.call_where)(np.array([True, False]), x[:2] > 5), [1, 0]
    )


@pytest.mark.parametrize("options", [{"vmap_method": "threads"}, {"vmap_method": "expand_dims"}])
def test_messages_about_results_name_what_was_declared(options):
    f = cb.external(lambda x: np.zeros(5, np.float32), result=cb.like(0), **options)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"change result= or signature="):
        jax.vmap(lambda x: f.call_where(x > 2, x))(x).block_until_ready()
