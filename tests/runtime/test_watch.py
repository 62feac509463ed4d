"""debug.watch and debug.on_gradient under each transformation: which lanes they see, how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices, plain
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import callbax

FOUR = jnp.arange(4.0)
seen = []


def record(batch, x, *others):
    seen.append((plain(batch.live), plain(x), *map(plain, others)))


def watch(x):
    callbax.debug.watch(record, x)
    return x


def watch_sin(x):
    return jnp.sin(watch(x))


def if_small(function, limit=2):
    return lambda x: lax.cond(x < limit, function, lambda x: -x, x)


def until(n, body):
    def step(i):
        body(i)
        return i + 1

    return lax.while_loop(lambda i: i < n, step, 0)


def observed(function, *args):
    """What the host has seen, in order."""
    seen.clear()
    jax.block_until_ready(function(*args))
    callbax.effects_barrier()
    return list(seen)


def jit_vmap(function, **options):
    return jax.jit(jax.vmap(function, **options))


T, F = True, False
ALL, SMALL = [T, T, T, T], [T, T, F, F]
VALUES = [0.0, 1.0, 2.0, 3.0]

# By name: a function of x, x, and what is seen: which lanes are live, and the values.
CASES = {
    "eager": (watch, 3.0, [(T, 3.0)]),
    "jit": (jax.jit(watch), 3.0, [(T, 3.0)]),
    "eager vmap": (jax.vmap(watch), FOUR, [(ALL, VALUES)]),
    "vmap": (jit_vmap(watch), FOUR, [(ALL, VALUES)]),
    "vmap over another axis": (
        jit_vmap(watch, in_axes=1),
        jnp.arange(6.0).reshape(2, 3),
        [([T, T, T], [[0, 3], [1, 4], [2, 5]])],
    ),
    "vmap of what is shared": (jit_vmap(lambda x: watch(1.0) + x), FOUR, [(T, 1.0)]),
    "vmap of vmap": (
        jit_vmap(jax.vmap(watch)),
        jnp.arange(6.0).reshape(2, 3),
        [([[T] * 3] * 2, [[0, 1, 2], [3, 4, 5]])],
    ),
    "vmap of vmap, from inside": (
        jit_vmap(jax.vmap(watch, in_axes=1), in_axes=1),
        jnp.arange(24.0).reshape(2, 3, 4),
        [([[T] * 4] * 3, np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0).tolist())],
    ),
    "scan": (
        jax.jit(lambda x: lax.scan(lambda c, i: (watch(c) + i, None), x, jnp.arange(3))[0]),
        3.0,
        [(T, 3.0), (T, 3.0), (T, 4.0)],
    ),
    "fori_loop": (
        jax.jit(lambda x: lax.fori_loop(0, 2, lambda i, c: watch(c) + 1, x)),
        3.0,
        [(T, 3.0), (T, 4.0)],
    ),
    "while_loop": (
        jax.jit(lambda x: lax.while_loop(lambda c: c < 5, lambda c: watch(c) + 1, x)),
        3.0,
        [(T, 3.0), (T, 4.0)],
    ),
    "cond, taken": (jax.jit(if_small(watch)), 1.0, [(T, 1.0)]),
    "cond, not taken": (jax.jit(if_small(watch)), 3.0, []),
    "grad": (jax.jit(jax.grad(watch_sin)), 3.0, [(T, 3.0)]),
    "jvp": (jax.jit(lambda x: jax.jvp(watch_sin, (x,), (x,))), 3.0, [(T, 3.0)]),
    "vjp": (lambda x: jax.vjp(watch_sin, x)[1](1.0), 3.0, [(T, 3.0)]),
    "linearize": (lambda x: jax.linearize(watch_sin, x)[1](1.0), 3.0, [(T, 3.0)]),
    "hessian": (jax.jit(jax.hessian(watch_sin)), 3.0, [(T, 3.0)]),
    "checkpoint": (jax.jit(jax.grad(jax.checkpoint(watch_sin))), 3.0, [(T, 3.0)]),
    "checkpoint, everything saved": (
        jax.jit(
            jax.grad(jax.checkpoint(watch_sin, policy=jax.checkpoint_policies.everything_saveable))
        ),
        3.0,
        [(T, 3.0)],
    ),
    "checkpointed scan": (
        jax.jit(
            jax.grad(
                lambda x: lax.scan(
                    jax.checkpoint(lambda c, i: (watch_sin(c) * 0 + c + 1, None)), x, jnp.arange(2)
                )[0]
            )
        ),
        3.0,
        [(T, 3.0), (T, 4.0)],
    ),
    "scan in a checkpoint": (
        jax.jit(
            jax.grad(
                jax.checkpoint(
                    lambda x: lax.scan(
                        lambda c, i: (watch_sin(c) * 0 + c + 1, None), x, jnp.arange(2)
                    )[0]
                )
            )
        ),
        3.0,
        [(T, 3.0), (T, 4.0)],
    ),
    "vmap of cond": (jit_vmap(if_small(watch)), FOUR, [(SMALL, VALUES)]),
    "eager vmap of cond": (jax.vmap(if_small(watch)), FOUR, [(SMALL, VALUES)]),
    "vmap of cond, not taken by any": (jit_vmap(if_small(watch, -1)), FOUR, []),
    "vmap of cond with a predicate for all": (
        jit_vmap(lambda x: lax.cond(True, watch, lambda x: -x, x)),
        FOUR,
        [(ALL, VALUES)],
    ),
    "vmap of cond of jit": (jit_vmap(if_small(jax.jit(watch))), FOUR, [(SMALL, VALUES)]),
    "vmap of cond of scan": (
        jit_vmap(
            if_small(lambda x: lax.scan(lambda c, _: (watch(c) + 1, c), x, None, length=2)[0])
        ),
        FOUR,
        [(SMALL, VALUES), (SMALL, [1, 2, 3, 4])],
    ),
    "vmap of cond of while_loop": (
        jit_vmap(if_small(lambda x: lax.while_loop(lambda c: c < 2, lambda c: watch(c) + 1, x))),
        FOUR,
        [(SMALL, VALUES), ([T, F, F, F], [1, 2, 2, 3])],
    ),
    "vmap of cond of cond": (
        jit_vmap(if_small(lambda x: lax.cond(x > 0, watch, lambda x: x + 10, x))),
        FOUR,
        [([F, T, F, F], VALUES)],
    ),
    "vmap of cond of a condition that is shared": (
        jit_vmap(if_small(lambda x: lax.cond(FOUR.sum() > 0, watch, lambda x: x + 10, x))),
        FOUR,
        [(SMALL, VALUES)],
    ),
    "vmap of cond of checkpoint": (
        jit_vmap(jax.grad(if_small(jax.checkpoint(watch_sin)))),
        FOUR,
        [(SMALL, VALUES)],
    ),
    "grad of vmap of cond": (
        jax.jit(jax.grad(lambda x: jax.vmap(if_small(watch_sin))(x).sum())),
        FOUR,
        [(SMALL, VALUES)],
    ),
    "vmap of vmap of cond, by the outer": (
        jit_vmap(lambda p: jax.vmap(lambda x: lax.cond(p > 0, watch, lambda x: -x, x))(FOUR)),
        jnp.arange(2.0),
        [([[F] * 4, [T] * 4], [VALUES, VALUES])],
    ),
    "vmap of vmap of cond, by the inner": (
        jit_vmap(lambda p: jax.vmap(lambda x: lax.cond(x < 2, watch, lambda x: -x, x + p))(FOUR)),
        jnp.arange(2.0) * 10,
        [([SMALL, SMALL], [VALUES, [10, 11, 12, 13]])],
    ),
    "vmap of switch": (
        jit_vmap(lambda x: lax.switch(x.astype(int), [watch, jnp.sin, jnp.cos, jnp.tan], x)),
        FOUR,
        [([T, F, F, F], VALUES)],
    ),
    "vmap of while_loop": (
        jit_vmap(lambda x: lax.while_loop(lambda c: c < 3, lambda c: watch(c) + 1, x)),
        jnp.arange(1.0, 4.0),
        [([T, T, F], [1, 2, 3]), ([T, F, F], [2, 3, 3])],
    ),
    "vmap of while_loop with a predicate for all": (
        jit_vmap(
            lambda x: lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, watch(c[1])), (0, x))
        ),
        FOUR,
        [(ALL, VALUES), (ALL, VALUES)],
    ),
    "vmap of vmap of while_loop of vmap": (
        jit_vmap(jax.vmap(lambda n: until(n, lambda i: jax.vmap(watch)(jnp.arange(2) + 10 * i)))),
        jnp.array([[0, 1], [1, 2]]),
        [
            ([[[F, F], [T, T]], [[T, T], [T, T]]], [[[0, 1], [0, 1]], [[0, 1], [0, 1]]]),
            ([[[F, F], [F, F]], [[F, F], [T, T]]], [[[0, 1], [10, 11]], [[10, 11], [10, 11]]]),
        ],
    ),
    "vmap of vmap of while_loop of vmap of cond": (
        jit_vmap(
            jax.vmap(lambda n: until(n, lambda i: jax.vmap(if_small(watch, 3))(jnp.arange(4) + n)))
        ),
        jnp.array([[0, 2], [1, 0], [1, 0]]),
        [
            (
                [[[F] * 4, [T, F, F, F]], [[T, T, F, F], [F] * 4], [[T, T, F, F], [F] * 4]],
                [[[0, 1, 2, 3], [2, 3, 4, 5]], *[[[1, 2, 3, 4], [0, 1, 2, 3]]] * 2],
            ),
            (
                [[[F] * 4, [T, F, F, F]], [[F] * 4] * 2, [[F] * 4] * 2],
                [[[0, 1, 2, 3], [2, 3, 4, 5]], *[[[1, 2, 3, 4], [0, 1, 2, 3]]] * 2],
            ),
        ],
    ),
    "grad of vmap of while_loop's jvp": (
        jit_vmap(
            lambda x: jax.jvp(
                lambda x: lax.while_loop(lambda c: c < 3, lambda c: watch(c) + 1, x), (x,), (x,)
            )
        ),
        jnp.arange(1.0, 4.0),
        [([T, T, F], [1, 2, 3]), ([T, F, F], [2, 3, 3])],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_seen(name):
    function, x, expected = CASES[name]
    assert observed(function, x) == expected
    assert observed(function, x) == expected, "the same program, again"


@pytest.mark.parametrize("name", [name for name in CASES if "cond" in name or "loop" in name])
def test_results_do_not_change(name, monkeypatch):
    function, x, _ = CASES[name]
    watched = function(x)
    jax.clear_caches()
    monkeypatch.setattr(callbax.debug, "watch", lambda *args, **kwargs: None)
    jax.tree.map(np.testing.assert_allclose, watched, function(x))


@jax.custom_jvp
def custom(x):
    return watch(x)


custom.defjvps(lambda t, ans, x: t)


def test_functions_with_rules_of_their_own_do_not_know_their_live_lanes():
    assert observed(jit_vmap(if_small(custom)), FOUR) == [(ALL, VALUES)]


def test_it_is_called_only_when():
    def function(x):
        callbax.debug.watch(record, x, "text", when=x > 1)

    assert observed(jax.jit(function), 1.0) == []
    assert observed(jax.jit(function), 2.0) == [(T, 2.0, "text")]
    assert observed(jit_vmap(function), FOUR) == [([F, F, T, T], VALUES, "text")]
    assert observed(jit_vmap(function), FOUR - 9) == []
    assert observed(function, 1.0) == []


def test_when_is_a_boolean_scalar():
    with pytest.raises(TypeError, match=r"when= of debug.watch is of dtype int32, but must be"):
        callbax.debug.watch(record, when=jnp.int32(1))
    with pytest.raises(ValueError, match=r"has the shape \(4,\), but must be a scalar"):
        callbax.debug.watch(record, when=FOUR > 1)


def test_the_device_is_known():
    found = []
    program = jax.jit(lambda x: callbax.debug.watch(lambda batch, x: found.append(batch.device), x))
    device = devices(2)[1]
    program(jax.device_put(1.0, device))
    callbax.effects_barrier()
    assert found == [device]


def mesh_of(*shape, names=("i", "j")):
    count = int(np.prod(shape))
    return jax.make_mesh(
        shape, names[: len(shape)], (AxisType.Auto,) * len(shape), devices=devices(count)
    )


def record_device(batch, x):
    seen.append((None if batch.device is None else batch.device.id, plain(x)))


def watch_device(x):
    callbax.debug.watch(record_device, x, when=(x >= 0).all())
    return x * 2


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_each_device_of_a_shard_map_calls(transform):
    mesh = mesh_of(8)
    program = transform(jax.shard_map(watch_device, mesh=mesh, in_specs=P("i"), out_specs=P("i")))
    found = observed(program, jax.device_put(jnp.arange(8.0) - 1, jax.NamedSharding(mesh, P("i"))))
    assert sorted(x for _, x in found) == [[i] for i in range(7)]
    if transform is jax.jit:
        assert sorted(found) == [(i + 1, [i]) for i in range(7)]


def test_each_device_of_a_pmap_calls():
    found = observed(jax.pmap(watch_device, devices=devices(4)), jnp.arange(4.0) - 1)
    assert sorted(found) == [(1, 0.0), (2, 1.0), (3, 2.0)]


def test_one_device_calls_where_the_compiler_distributes():
    x = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh_of(8), P("i")))
    assert observed(jax.jit(watch_device), x) == [(0, list(range(8)))]
    assert observed(jit_vmap(watch_device), x) == [(0, list(range(8)))]
    assert observed(jax.jit(watch_device), -x - 1) == []


@pytest.mark.parametrize("function", ["cond", "cond of while_loop", "while_loop", "gradient"])
def test_lanes_of_each_device_of_a_shard_map(function):
    def loop(x):
        return lax.while_loop(lambda c: c < 2, lambda c: watch(c) + 1, x)

    functions = {
        "cond": if_small(watch, 3),
        "cond of while_loop": if_small(loop, 3),
        "while_loop": loop,
        "gradient": if_small(square, 3),
    }
    values = jax.shard_map(
        jax.vmap(functions[function]), mesh=mesh_of(2), in_specs=P("i"), out_specs=P("i")
    )
    program = jax.grad(lambda x: values(x).sum()) if function == "gradient" else values
    assert (
        sorted(observed(jax.jit(program), FOUR))
        == {
            "cond": [([T, F], [2, 3]), ([T, T], [0, 1])],
            "cond of while_loop": [([T, F], [1, 2]), ([T, T], [0, 1])],
            "while_loop": [([T, F], [1, 2]), ([T, T], [0, 1])],
            "gradient": [([T, F], [4, 0]), ([T, T], [0, 2])],
        }[function]
    )


def test_partly_manual_programs_call_once_for_each_part():
    program = jax.jit(
        jax.shard_map(
            watch_device,
            mesh=mesh_of(4, 2),
            in_specs=P("i"),
            out_specs=P("i"),
            axis_names={"i"},
        )
    )
    assert sorted(observed(program, jnp.arange(8.0) - 2)) == [
        (None, [0, 1]),
        (None, [2, 3]),
        (None, [4, 5]),
    ]


def test_ordered_calls_keep_the_programs_order():
    def function(x):
        for i in range(20):
            callbax.debug.watch(record, x * i, ordered=True)

    expected = [(T, 2.0 * i) for i in range(20)]
    assert observed(jax.jit(function), 2.0) == expected
    assert observed(jax.jit(jax.checkpoint(function)), 2.0) == expected


def test_equal_calls_have_equal_parameters():
    def function(x):
        callbax.debug.watch(record, x, "label", when=x > 1)
        return callbax.debug.on_gradient(x, see, "label")

    first, second = (jax.make_jaxpr(jax.vmap(function))(FOUR).eqns for _ in range(2))
    assert [eqn.params for eqn in first] == [eqn.params for eqn in second]
    assert {eqn.primitive.name for eqn in first} >= {"watch", "watched"}


# -- gradients -------------------------------------------------------------------------------------
def see(gradient, *others):
    callbax.debug.watch(record, gradient, *others)


def square(x, *others):
    return callbax.debug.on_gradient(x, see, *others) ** 2


GRADIENTS = {
    "eager": (jax.grad(square), 3.0, [(T, 6.0)]),
    "jit": (jax.jit(jax.grad(square)), 3.0, [(T, 6.0)]),
    "no gradient": (jax.jit(square), 3.0, []),
    "jvp": (jax.jit(lambda x: jax.jvp(square, (x,), (1.0,))), 3.0, []),
    "vjp": (lambda x: jax.vjp(square, x)[1](10.0), 3.0, [(T, 60.0)]),
    "vmap of grad": (jit_vmap(jax.grad(square)), FOUR, [(ALL, [0, 2, 4, 6])]),
    "grad of vmap": (
        jax.jit(jax.grad(lambda x: jax.vmap(square)(x).sum())),
        FOUR,
        [(ALL, [0, 2, 4, 6])],
    ),
    "grad of vmap over another axis": (
        jax.jit(jax.grad(lambda x: jax.vmap(square, in_axes=1)(x).sum())),
        jnp.arange(6.0).reshape(2, 3),
        [([T, T, T], [[0, 6], [2, 8], [4, 10]])],
    ),
    "grad of vmap of vmap": (
        jax.jit(jax.grad(lambda x: jax.vmap(jax.vmap(square), in_axes=1)(x).sum())),
        jnp.arange(6.0).reshape(2, 3),
        [([[T, T]] * 3, [[0, 6], [2, 8], [4, 10]])],
    ),
    "grad of vmap of what else it is told": (
        jax.jit(jax.grad(lambda x: jax.vmap(square, (0, None))(x, 7).sum())),
        FOUR,
        [(ALL, [0, 2, 4, 6], [7, 7, 7, 7])],
    ),
    "vmap of grad of cond": (jit_vmap(jax.grad(if_small(square))), FOUR, [(SMALL, [0, 2, 0, 0])]),
    "grad of vmap of cond": (
        jax.jit(jax.grad(lambda x: jax.vmap(if_small(square))(x).sum())),
        FOUR,
        [(SMALL, [0, 2, 0, 0])],
    ),
    "eager grad of vmap of cond": (
        jax.grad(lambda x: jax.vmap(if_small(square))(x).sum()),
        FOUR,
        [(SMALL, [0, 2, 0, 0])],
    ),
    "grad of vmap of cond, not taken by any": (
        jax.jit(jax.grad(lambda x: jax.vmap(if_small(square, -1))(x).sum())),
        FOUR,
        [],
    ),
    "grad of vmap of cond of jit": (
        jax.jit(jax.grad(lambda x: jax.vmap(if_small(jax.jit(square)))(x).sum())),
        FOUR,
        [(SMALL, [0, 2, 0, 0])],
    ),
    "grad of vmap of cond of checkpoint": (
        jax.jit(jax.grad(lambda x: jax.vmap(if_small(jax.checkpoint(square)))(x).sum())),
        FOUR,
        [(SMALL, [0, 2, 0, 0])],
    ),
    "grad of scan of vmap of cond": (
        jax.jit(
            jax.grad(
                lambda x: lax.scan(
                    lambda c, _: (jax.vmap(if_small(square))(c) + 2, None), x, None, length=2
                )[0].sum()
            )
        ),
        jnp.array([1.0, -1.0]),
        [([T, T], [-2, 2])],
    ),
    "checkpoint": (jax.jit(jax.grad(jax.checkpoint(square))), 3.0, [(T, 6.0)]),
    "scan": (
        jax.jit(
            jax.grad(lambda x: lax.scan(lambda c, i: (square(c, i), None), x, jnp.arange(2))[0])
        ),
        3.0,
        [(T, 18.0, 1), (T, 108.0, 0)],
    ),
    "checkpointed scan": (
        jax.jit(
            jax.grad(
                lambda x: lax.scan(
                    jax.checkpoint(lambda c, i: (square(c, i), None)), x, jnp.arange(2)
                )[0]
            )
        ),
        3.0,
        [(T, 18.0, 1), (T, 108.0, 0)],
    ),
    "forward over reverse": (
        jax.jit(lambda x: jax.jvp(jax.grad(square), (x,), (1.0,))),
        3.0,
        [(T, 6.0)],
    ),
    "cond": (jax.jit(jax.grad(if_small(square, 5))), 3.0, [(T, 6.0)]),
    "what else it is told": (
        jax.jit(jax.grad(lambda x: square(x, x + 1, "text"))),
        3.0,
        [(T, 6.0, 4.0, "text")],
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_which_gradients_are_seen(name):
    function, x, expected = GRADIENTS[name]
    assert observed(function, x) == expected
    assert observed(function, x) == expected, "the same program, again"


def test_gradients_of_each_device():
    mesh = mesh_of(8)
    by_device = jax.shard_map(square, mesh=mesh, in_specs=P("i"), out_specs=P("i"))
    found = observed(jax.jit(jax.grad(lambda x: by_device(x).sum())), jnp.arange(8.0))
    assert sorted(found) == [(T, [2.0 * i]) for i in range(8)]


def test_leaves_without_a_gradient_are_none():
    found = []
    tree = {"a": 1.0, "b": 2, "c": None, "d": "text", "e": jnp.ones(2, bool)}

    def function(x):
        watched = callbax.debug.on_gradient({**tree, "a": x}, found.append)
        assert watched["d"] == "text" and watched["c"] is None
        return watched["a"] * watched["b"]

    assert jax.grad(function)(3.0) == 2.0
    assert {name: gradient is not None for name, gradient in found[0].items()} == {
        "a": True, "b": False, "c": False, "d": False, "e": False
    }  # fmt: skip


def test_of_nothing_that_has_a_gradient_it_is_the_value_itself():
    tree = [1, "text"]
    assert callbax.debug.on_gradient(tree, see) is tree
    with pytest.raises(
        TypeError, match="function= of debug.on_gradient must be callable, but it is None"
    ):
        callbax.debug.on_gradient(1.0, None)


@pytest.mark.parametrize("lanes", [(), (1,), (3,)])
def test_what_is_computed_for_the_call_alone(lanes):
    """Without lanes, that the one is live is no operand, which would be computed a second time."""

    def when_large(x):
        callbax.debug.watch(record, x, when=x > 1)
        return x

    function = when_large
    for _ in lanes:
        function = jax.vmap(function)
    x = jnp.full(lanes, 2.0)
    assert observed(jax.jit(function), x) == [(plain(x > 1), plain(x))]
    program = jax.jit(function).lower(x).as_text()
    assert ("stablehlo.constant dense<true>" in program) == (not lanes)
