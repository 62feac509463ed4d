"""zero_copy, out and arrays: how a host function gets its arrays and hands over its result."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import callbax as cb

x = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_zero_copy_hands_over_read_only_views():
    @cb.external(result=cb.like(0), zero_copy=True)
    def doubled(a):
        assert not a.flags.writeable and not a.flags.owndata
        return 2 * a

    step = jax.jit(doubled)
    for _ in range(3):  # the first call of a program is made with copies
        np.testing.assert_array_equal(step(x), 2 * x)
    np.testing.assert_array_equal(jax.vmap(doubled)(x), 2 * x)


def test_a_view_that_is_kept_is_an_error_that_says_what_to_do():
    kept = []

    @cb.external(result=cb.like(0), zero_copy=True)
    def keeping(a):
        kept.append(a[:1])
        return 2 * a

    with pytest.raises(jax.errors.JaxRuntimeError, match=r"keeping \(.*copy\(\)") as info:
        jax.block_until_ready(jax.jit(keeping)(x))
    assert isinstance(cb.original_exception(info.value), cb.CallbackViewError)
    np.testing.assert_array_equal(kept[0], x[:1])


@pytest.mark.parametrize("returned", ["none", "out"])
def test_out_is_written_in_place(returned):
    @cb.external(result=lambda a, b: {"sum": a, "parts": (b,)}, out=True, zero_copy=True)
    def both(a, b, out):
        np.add(a, b, out=out["sum"])
        out["parts"][0][...] = b
        return out if returned == "out" else None

    for _ in range(3):
        actual = jax.jit(both)(x, 2 * x)
        np.testing.assert_array_equal(actual["sum"], 3 * x)
        np.testing.assert_array_equal(actual["parts"][0], 2 * x)
    gc.collect()


def test_out_of_a_ufunc_and_of_lanes():
    add = cb.external(np.add, result="broadcast", out=True)
    np.testing.assert_array_equal(jax.jit(add)(x, np.float32(1)), x + 1)
    total = cb.external(np.sum, signature="(n)->()", out=True)
    np.testing.assert_array_equal(total(x), x.sum(axis=1))


def test_returning_something_else_than_out_is_an_error():
    wrong = cb.external(lambda a, out: 2 * a, result=cb.like(0), out=True)
    with pytest.raises(
        jax.errors.JaxRuntimeError, match="it must write its result into the argument"
    ):
        jax.block_until_ready(wrong(x))


def test_arrays_of_jax():
    @cb.external(result=cb.like("scale"), arrays="jax")
    def norm(tree, *, scale):
        assert all(isinstance(leaf, jax.Array) for leaf in (*tree.values(), scale))
        return scale * jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in tree.values()))

    call = jax.jit(lambda tree: norm(tree, scale=np.float32(2)))
    np.testing.assert_allclose(call({"a": x, "b": x}), 2 * np.sqrt(2 * (x**2).sum()), rtol=1e-6)


def test_views_and_jax_arrays_exclude_each_other():
    with pytest.raises(ValueError, match="choose one"):
        cb.external(np.sin, result=cb.like(0), arrays="jax", zero_copy=True)


def test_a_given_name_is_written_in_the_program():
    named = cb.external(lambda a: a, result=cb.like(0), name="my.simulator")
    assert "my.simulator" in jax.jit(named).lower(x).as_text()


@pytest.mark.full  # it takes seconds
def test_check_runs_functions_that_write_in_place_or_take_jax_arrays():
    add = cb.external(np.add, result="broadcast", out=True)
    assert cb.check(add, x, x, print_table=False).ok
    cube = cb.external(lambda a: a**3, result=cb.like(0), arrays="jax", derivative="central")
    report = cb.check(cube, x, print_table=False)
    assert report.ok, str(report)
