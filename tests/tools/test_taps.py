"""tap and collect: which values and gradients, in which order; and nothing where nobody collects."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices, plain
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import callbax
from callbax import tools

THREE = jnp.arange(3.0)
T, F = True, False


def square(x):
    """Its value is tapped, and the gradient with respect to it is twice that."""
    return tools.tap(x, "x") ** 2


def grow(x, steps=3):
    return lax.scan(lambda c, i: (square(c) + i, None), x, jnp.arange(float(steps)))[0]


def if_small(function, limit=2):
    return lambda x: lax.cond(x < limit, function, lambda x: x * 5, x)


def jit_vmap(function):
    return jax.jit(jax.vmap(function))


@jax.custom_vjp
def custom(x):
    return square(x)


custom.defvjp(lambda x: (square(x), x), lambda x, t: (2 * x * t,))

# By name: a function of x; x; the values; the gradients, if it has any.
CASES = {
    "eager": (square, 3.0, [3], None),
    "jit": (jax.jit(square), 3.0, [3], None),
    "eager vmap": (jax.vmap(square), THREE, [[0, 1, 2]], None),
    "vmap": (jit_vmap(square), THREE, [[0, 1, 2]], None),
    "vmap of vmap": (jit_vmap(jax.vmap(square)), THREE[None], [[[0, 1, 2]]], None),
    "vmap over what is shared": (jit_vmap(lambda x: square(4.0) + x), THREE, [4], None),
    "eager grad": (jax.grad(square), 3.0, [3], [6]),
    "grad": (jax.jit(jax.grad(square)), 3.0, [3], [6]),
    "vjp": (lambda x: jax.vjp(square, x)[1](10.0), 3.0, [3], [60]),
    "jvp": (jax.jit(lambda x: jax.jvp(square, (x,), (x,))), 3.0, [3], None),
    "linearize": (lambda x: jax.linearize(square, x)[1](1.0), 3.0, [3], None),
    "vmap of grad": (jit_vmap(jax.grad(square)), THREE, [[0, 1, 2]], [[0, 2, 4]]),
    "grad of vmap": (
        jax.jit(jax.grad(lambda x: jax.vmap(square)(x).sum())),
        THREE,
        [[0, 1, 2]],
        [[0, 2, 4]],
    ),
    "checkpoint": (jax.jit(jax.grad(jax.checkpoint(square))), 3.0, [3], [6]),
    "custom_vjp": (jax.jit(jax.grad(custom)), 3.0, [3], None),
    "scan": (jax.jit(grow), 1.0, [1, 1, 2], None),
    "fori_loop": (
        jax.jit(lambda x: lax.fori_loop(0, 3, lambda i, c: square(c), x)),
        2.0,
        [2, 4, 16],
        None,
    ),
    "while_loop": (
        jax.jit(lambda x: lax.while_loop(lambda c: c < 10, square, x)),
        2.0,
        [2, 4],
        None,
    ),
    "grad of scan": (jax.jit(jax.grad(grow)), 1.0, [1, 1, 2], [16, 8, 4]),
    "grad of checkpointed steps": (
        jax.jit(
            jax.grad(
                lambda x: lax.scan(
                    jax.checkpoint(lambda c, i: (square(c) + i, None)), x, jnp.arange(3.0)
                )[0]
            )
        ),
        1.0,
        [1, 1, 2],
        [16, 8, 4],
    ),
    "grad of a checkpointed scan": (
        jax.jit(jax.grad(jax.checkpoint(grow))),
        1.0,
        [1, 1, 2],
        [16, 8, 4],
    ),
    "vmap of grad of scan": (
        jit_vmap(jax.grad(lambda x: grow(x, 2))),
        THREE,
        [[0, 1, 2], [0, 1, 4]],
        [[0, 4, 32], [0, 2, 8]],
    ),
    "scan of grad": (
        jax.jit(
            lambda x: lax.scan(lambda c, _: (jax.grad(square)(c), None), x, None, length=2)[0]
        ),
        3.0,
        [3, 6],
        [6, 12],
    ),
    "scan of scan": (
        jax.jit(
            lambda x: lax.scan(lambda c, _: (grow(c * 0 + 1, 2), None), x, None, length=2)[0]
        ),
        1.0,
        [1, 1, 1, 1],
        None,
    ),
    "cond, taken": (jax.jit(jax.grad(if_small(square))), 1.0, [1], [2]),
    "cond, not taken": (jax.jit(jax.grad(if_small(square))), 3.0, None, None),
    "vmap of cond": (jit_vmap(if_small(square)), THREE, [[0, 1, 2]], None),
    "vjp of what is partly compiled": (
        lambda x: jax.vjp(lambda x: square(jax.jit(square, inline=True)(x)), x)[1](1.0),
        1.0,
        [1, 1],
        [4, 2],
    ),
    "taps of one name": (
        jax.jit(jax.grad(lambda x: square(2 * square(x)))),
        1.0,
        [1, 2],
        [16, 4],
    ),
}  # fmt: skip


def collected(function, x):
    with tools.collect() as taps:
        jax.block_until_ready(function(x))
    return (
        plain(taps["x"]) if "x" in taps else None,
        plain(taps.gradients["x"]) if "x" in taps.gradients else None,
    )


@pytest.mark.parametrize("name", CASES)
def test_what_is_collected(name):
    function, x, values, gradients = CASES[name]
    result = function(x)  # compiled before anybody collects
    for _ in range(2):
        assert collected(function, x) == (values, gradients)
        jax.tree.map(np.testing.assert_array_equal, function(x), result)


def test_live_lanes():
    with tools.collect() as taps:
        jit_vmap(if_small(square))(THREE)
    assert plain(taps.live["x"]) == [[T, T, F]]
    with tools.collect() as taps:
        jit_vmap(lambda x: lax.while_loop(lambda c: c < 3, lambda c: square(c) + 1, x))(THREE + 1)
    assert plain(taps["x"]) == [[1, 2, 3], [2, 5, 3]]
    assert plain(taps.live["x"]) == [[T, T, F], [T, F, F]]


def mesh_of_8():
    return jax.make_mesh((8,), ("i",), (AxisType.Auto,), devices=devices(8))


def on_each(function):
    return jax.shard_map(function, mesh=mesh_of_8(), in_specs=P("i"), out_specs=P("i"))


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap"])
def test_gradients_stay_with_their_values_where_no_lane_is_live(order):
    """The first and the last of three steps are live in one lane, that between them in none."""

    def steps(x):
        def step(c, i):
            return lax.cond((c > 0) & (i != 1), square, lambda x: x * 2, c), None

        return lax.scan(step, x, jnp.arange(3))[0]

    gradients = {
        "vmap of grad": jax.vmap(jax.grad(steps)),
        "grad of vmap": jax.grad(lambda x: jax.vmap(steps)(x).sum()),
    }
    values, found = collected(jax.jit(gradients[order]), jnp.array([1.0, -1.0]))
    assert values == [[1, -1], [2, -4]]
    assert [gradient[0] for gradient in found] == [16, 4]


def test_a_batch_axis_is_in_front_of_gradients_too():
    x = jnp.arange(6.0).reshape(2, 3)
    gradient = jax.grad(lambda x: jax.vmap(square, in_axes=1)(x).sum())
    values, found = collected(gradient, x)
    assert values == [x.T.tolist()] and found == [(2 * x.T).tolist()]


def test_devices_of_a_shard_map_in_the_order_of_their_numbers():
    function = jax.jit(jax.grad(lambda x: on_each(lambda x: grow(x, 2))(x).sum()))
    for _ in range(3):
        values, gradients = collected(function, jnp.arange(8.0))
        assert values == [[i] for i in range(8)] + [[i**2] for i in range(8)]
        assert gradients == [[4 * i**3] for i in range(8)] + [[2 * i**2] for i in range(8)]


def test_devices_of_a_pmap_in_the_order_of_their_numbers():
    function = jax.pmap(square, devices=devices(4))
    function(jnp.arange(4.0))
    for _ in range(3):
        assert collected(function, jnp.arange(4.0)) == ([0, 1, 2, 3], None)


def test_what_the_compiler_distributes_is_seen_whole():
    x = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh_of_8(), P("i")))
    function = jax.jit(jax.grad(lambda x: square(x).sum()))
    assert collected(function, x) == ([list(range(8))], [list(range(0, 16, 2))])


def test_partly_manual_programs_are_refused():
    mesh = jax.make_mesh((4, 2), ("i", "j"), (AxisType.Auto,) * 2, devices=devices(8))
    function = jax.jit(
        jax.shard_map(square, mesh=mesh, in_specs=P("i"), out_specs=P("i"), axis_names={"i"})
    )
    function(jnp.arange(8.0))
    with pytest.raises(NotImplementedError, match="ordered calls of debug.watch are only"):
        collected(function, jnp.arange(8.0))


# -- where nobody collects -------------------------------------------------------------------------
def test_programs_have_nothing_of_taps_where_nobody_collects():
    def bare(x):
        return x**2

    texts = [
        jax.jit(jax.grad(f)).lower(3.0).as_text().replace("square", "bare") for f in (square, bare)
    ]
    assert texts[0] == texts[1]
    assert jax.make_jaxpr(square)(3.0).pretty_print() == jax.make_jaxpr(bare)(3.0).pretty_print()
    x = object()
    assert tools.tap(x, "x") is x


def test_each_way_is_traced_once():
    traces = []

    @jax.jit
    def function(x):
        traces.append(x)
        return square(x)

    with tools.collect():
        pass  # the first block of a process makes JAX's caches forget
    for _ in range(3):
        function(3.0)
        with tools.collect() as taps:
            function(4.0)
        assert plain(taps["x"]) == [4]
    assert len(traces) == 2


def test_programs_of_a_block_that_are_called_outside_are_seen_by_nobody():
    with tools.collect() as taps:
        program = jax.jit(square).lower(3.0).compile()
        backward = jax.vjp(square, 3.0)[1]
    assert plain(taps["x"]) == [3]  # that of jax.vjp
    program(4.0)
    backward(1.0)
    callbax.effects_barrier()
    assert plain(taps["x"]) == [3] and not taps.gradients


# -- blocks ----------------------------------------------------------------------------------------
def test_blocks_may_be_nested():
    function = jax.jit(square)
    with tools.collect() as outer:
        function(1.0)
        with tools.collect() as inner:
            function(2.0)
        function(3.0)
    assert plain(outer["x"]) == [1, 2, 3]
    assert plain(inner["x"]) == [2]


def test_nested_blocks_that_see_the_same():
    block, function = tools.collect(), jax.jit(square)
    x = jnp.arange(3.0)
    with block as outer:
        with block as inner:
            function(x)
        function(x)
    assert [len(outer["x"]), len(inner["x"])] == [2, 1]
    function(x)
    assert len(outer["x"]) == 2 and tools.tap(outer, "x") is outer


def test_blocks_may_end_in_any_order():
    function = jax.jit(square)
    first, second = tools.collect(), tools.collect()
    taps = [first.__enter__(), second.__enter__()]
    first.__exit__(None, None, None)
    function(1.0)
    second.__exit__(None, None, None)
    function(2.0)
    assert not taps[0] and plain(taps[1]["x"]) == [1]
    assert tools.tap(taps, "x") is taps


def test_threads_collect_for_themselves():
    function = jax.jit(jax.grad(square))
    both, found = threading.Barrier(2), {}

    def run(number):
        with tools.collect() as taps:
            both.wait()
            for i in range(10):
                function(10.0 * number + i)
            both.wait()
        found[number] = plain(taps["x"]), plain(taps.gradients["x"])

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (1, 2):
        expected = [10.0 * number + i for i in range(10)]
        assert found[number] == (expected, [2 * x for x in expected])


def test_other_threads_are_not_seen():
    function = jax.jit(square)
    with tools.collect() as taps:
        thread = threading.Thread(target=function, args=(3.0,))
        thread.start()
        thread.join()
    assert not taps


def test_an_error_in_the_block_passes_and_ends_it():
    with pytest.raises(KeyError, match="lost"), tools.collect() as taps:
        jax.jit(square)(3.0)
        raise KeyError("lost")
    assert plain(taps["x"]) == [3]
    assert tools.tap(taps, "x") is taps


def test_a_program_that_fails_in_the_block():
    def fails(x):
        tools.tap(x, "before")
        return tools.raise_if(x, x > 0, ValueError, "too large")

    with pytest.raises(ValueError, match="too large"), tools.collect() as taps:
        tools.checked(jax.jit(fails))(3.0)
    assert set(taps) <= {"before"}
    assert collected(jax.jit(square), 2.0) == ([2], None)


# -- what a block hands out ------------------------------------------------------------------------
def test_trees_and_what_is_not_an_array():
    tree = {"a": THREE, "b": [1.0, "text", None]}
    with tools.collect() as taps:
        returned = jax.jit(lambda tree: tools.tap({**tree, "c": "text"}, "tree")["a"])({"a": THREE})
        tools.tap(tree, "eager")
    np.testing.assert_array_equal(returned, THREE)
    assert plain(taps["tree"]) == [{"a": [0, 1, 2], "c": "text"}]
    assert plain(taps["eager"]) == [{"a": [0, 1, 2], "b": [1.0, "text", None]}]
    assert isinstance(taps["tree"][0]["a"], np.ndarray)


def test_stacked():
    with tools.collect() as taps:
        jit_vmap(grow)(THREE)
        jax.jit(
            lambda x: lax.scan(
                lambda c, _: (tools.tap({"c": c + 1}, "t")["c"], None), x, None, length=2
            )
        )(1.0)
    assert taps.stacked("x").shape == (3, 3)
    np.testing.assert_array_equal(taps.stacked("t")["c"], [2, 3])


def test_it_is_a_mapping():
    with tools.collect() as taps:
        for name in ("b", "a"):
            tools.tap(1.0, name)
    assert list(taps) == ["b", "a"] and len(taps) == 2 and "c" not in taps
    assert repr(taps.gradients) == "{}"
    with pytest.raises(
        KeyError, match=r"no tap of the name 'c' has been passed; there are: 'a', 'b'"
    ):
        taps["c"]
    with pytest.raises(TypeError, match="the name of a tap is a string, but it got 3"):
        tools.tap(1.0, 3)


def test_arrays_may_be_kept():
    function = jax.jit(lambda x: lax.fori_loop(0, 50, lambda i, c: tools.tap(c + 1, "x"), x))
    with tools.collect() as taps:
        function(jnp.zeros(100_000))
    for i, array in enumerate(taps["x"]):
        assert (array == i + 1).all()
