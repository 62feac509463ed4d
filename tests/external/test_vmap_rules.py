"""def_vmap: the user's batching rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import callbax as cb

grid = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
seen = []


@cb.external(result=lambda x: jax.ShapeDtypeStruct(x.shape[:1], x.dtype))
def row_sums(x):
    seen.append(x.shape)
    return x.sum(1)


def external_sum(**options):
    return cb.external(lambda x: x.sum(), result=scalar, **options)


scalar = jax.ShapeDtypeStruct((), np.float32)


@pytest.fixture(autouse=True)
def forget():
    seen.clear()


@pytest.mark.parametrize("options", [{}, {"effects": "io"}, {"vmap_method": "threads"}])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_the_rule_takes_the_place_of_the_method(transform, options):
    f = external_sum(**options)

    @f.def_vmap
    def rule(axis_size, in_batched, x):
        assert (axis_size, in_batched) == (len(x), (True,))
        return row_sums(x), True

    assert callable(rule)
    np.testing.assert_array_equal(transform(f)(grid[0]), grid[0].sum())
    assert seen == []
    np.testing.assert_array_equal(transform(jax.vmap(f))(grid[0]), grid[0].sum(1))
    assert seen == [(3, 4)]


def test_rules_that_fit():
    f = external_sum()
    f.def_vmap(lambda size, batched, x: (row_sums(x.reshape(size, -1)), True))
    np.testing.assert_array_equal(jax.jit(jax.vmap(f))(grid), grid.sum((1, 2)))
    assert seen == [(2, 12)]
    nested = jax.jit(jax.vmap(jax.vmap(f)))(grid)
    np.testing.assert_array_equal(nested, grid.sum(2))


def test_arguments_stay_in_their_places():
    @cb.external(result=lambda tree, mode, scale: tree["a"])
    def f(tree, mode, scale):
        return tree["a"] * scale

    @f.def_vmap
    def rule(axis_size, in_batched, tree, mode, scale):
        assert mode == "plain"
        assert in_batched == ({"a": True, "b": False}, None, False)
        return tree["a"] * scale, True

    b = np.ones(2, np.float32)
    mapped = jax.vmap(lambda a: f({"a": a, "b": b}, "plain", 3.0))
    np.testing.assert_array_equal(jax.jit(mapped)(grid), 3 * grid)


def test_results_that_are_not_batched_and_several():
    result = {"sum": scalar, "constant": jax.ShapeDtypeStruct((), np.int32)}
    f = cb.external(lambda x: {"sum": x.sum(), "constant": np.int32(7)}, result=result)

    @f.def_vmap
    def rule(axis_size, in_batched, x):
        out = {"sum": jnp.sum(x, 1), "constant": jnp.int32(7)}
        return out, {"sum": True, "constant": False}

    actual = jax.jit(jax.vmap(f, out_axes={"sum": 0, "constant": None}))(grid[0])
    np.testing.assert_array_equal(actual["sum"], grid[0].sum(1))
    assert actual["constant"] == 7


def test_live_lanes_are_the_methods_business():
    f = cb.external(lambda x: x + 1, result=cb.like(0))
    f.def_vmap(lambda size, batched, x: (x + 100, True))
    x = grid[0, 0]
    np.testing.assert_array_equal(jax.vmap(f)(x), x + 100)
    np.testing.assert_array_equal(jax.vmap(lambda x: f.call_where(x > 1, x))(x), [0, 0, 3, 4])


@pytest.mark.parametrize(
    "returned, kind, message",
    [
        (lambda x: row_sums(x), TypeError, r"must return \(out, out_batched\)"),
        (lambda x: ((row_sums(x),), True), TypeError, "returned the structure"),
        (lambda x: (row_sums(x), (True,)), TypeError, "returned out_batched of the structure"),
        (lambda x: (jnp.sum(x), True), ValueError, r"shape \(\) .*but \(3,\) and float32"),
        (lambda x: (row_sums(x), False), ValueError, r"shape \(3,\) .*but \(\) and float32"),
        (lambda x: (jnp.zeros(3, int), True), ValueError, "dtype int32"),
    ],
)
def test_rules_that_return_something_else(returned, kind, message):
    f = external_sum()
    f.def_vmap(lambda size, batched, x: returned(x))
    with pytest.raises(kind, match=r"def_vmap\) of .*test_vmap_rules\.py.*" + message):
        jax.vmap(f)(grid[0])


def test_bad_use():
    with pytest.raises(TypeError, match="def_vmap"):
        external_sum().def_vmap("rule")

    @cb.external(result=cb.like(0))
    def f(x, *, y):
        return x

    f.def_vmap(lambda size, batched, x: (x, True))
    with pytest.raises(TypeError, match=r"keyword-only arguments \['y'\] hold arrays"):
        jax.vmap(lambda x: f(x, y=x))(grid)
