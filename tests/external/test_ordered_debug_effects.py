"""effects="ordered_debug": a host function that looks on, in order and once, in every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices
from jax.sharding import NamedSharding, PartitionSpec

import callbax as cb

seen = []
NUMBER = jax.ShapeDtypeStruct((), np.float32)


def note(step, x):
    seen.append((step.tolist(), x.tolist()))


look = cb.external(note, result=None, effects="ordered_debug", vmap_method="expand_dims")


def looked_at(step, x):
    look(step, x)
    return 2 * x


def scanned(x):
    return jax.lax.scan(lambda x, step: (looked_at(step, x), None), x, jnp.arange(3))[0]


def loop(x):
    return jax.lax.fori_loop(0, 3, looked_at, x)


def unrolled(x):
    for step in range(3):
        x = looked_at(step, x)
    return x


def condition(x):
    return jax.lax.cond(x > 0, lambda x: looked_at(1, x), lambda x: looked_at(2, x), x)


@pytest.fixture(autouse=True)
def _nothing_seen():
    seen.clear()


def seen_by(function, *args):
    jax.block_until_ready(function(*args))
    cb.effects_barrier()
    return seen


STEPS = [(0, 1.0), (1, 2.0), (2, 4.0)]
ONCE = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "grad": jax.grad,
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,)),
    "hessian": jax.hessian,
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](x),
    "grad of checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "jit of grad of checkpoint": lambda f: jax.jit(jax.grad(jax.checkpoint(f))),
    "everything saved": lambda f: jax.grad(
        jax.checkpoint(f, policy=jax.checkpoint_policies.everything_saveable)
    ),
}
PROGRAMS = {
    "straight": (lambda x: looked_at(0, x), STEPS[:1]),
    "unrolled": (unrolled, STEPS),
    "cond": (condition, [(1, 1.0)]),
    "scan": (scanned, STEPS),
    "scan of checkpoint": (
        lambda x: jax.lax.scan(
            jax.checkpoint(lambda x, step: (looked_at(step, x), None)), x, jnp.arange(3)
        )[0],
        STEPS,
    ),
    "fori_loop": (loop, STEPS),
}


@pytest.mark.parametrize("transformation", ONCE)
@pytest.mark.parametrize("program", PROGRAMS)
def test_calls_happen_once_and_in_order(program, transformation):
    function, expected = PROGRAMS[program]
    assert seen_by(ONCE[transformation](function), 1.0) == expected


def test_a_batch_is_one_call():
    xs = jnp.array([1.0, 3.0])
    expected = [([0], [1.0, 3.0]), ([1], [2.0, 6.0]), ([2], [4.0, 12.0])]
    assert seen_by(jax.vmap(scanned), xs) == expected


def test_nested_batches_are_one_call():
    xs = jnp.arange(6.0).reshape(3, 2)
    assert seen_by(jax.vmap(jax.vmap(lambda x: looked_at(0, x))), xs) == [([[0]], xs.tolist())]


def test_lane_by_lane():
    lanes = cb.external(note, result=None, effects="ordered_debug")
    assert seen_by(jax.vmap(lambda x: lanes(0, x)), np.arange(2.0)) == [(0, 0.0), (0, 1.0)]


def test_a_batched_loop_goes_on_until_all_lanes_have_ended():
    def count(n):
        return jax.lax.while_loop(lambda i: i < n, lambda i: (look(0, i), i + 1)[1], 0)

    assert seen_by(jax.vmap(count), jnp.array([1, 2])) == [([0], [0, 0]), ([0], [1, 1])]


def test_live_lanes_only():
    lanes = cb.external(note, result=None, effects="ordered_debug")
    call = jax.vmap(lambda x: lanes.call_where(x > 0, 0, x))
    assert seen_by(call, np.arange(3.0)) == [(0, 1.0), (0, 2.0)]


def test_each_device_of_a_manual_program_calls():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices(8))
    spec = PartitionSpec("x")
    function = jax.shard_map(scanned, mesh=mesh, in_specs=spec, out_specs=spec)
    calls = seen_by(jax.jit(function), jnp.arange(8.0))
    for device in range(8):
        own = [(step, [device * 2.0**step]) for step in range(3)]
        assert [call for call in calls if call in own] == own
    assert len(calls) == 24


def test_a_program_that_the_compiler_distributes_calls_once():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices(8))
    xs = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("x")))
    assert seen_by(jax.jit(lambda x: looked_at(0, x)), xs) == [(0, xs.tolist())]


def test_an_error_surfaces_and_the_next_call_works():
    def fail(x):
        if x > 0:
            raise ValueError("too large")
        seen.append(x.tolist())

    call = jax.jit(cb.external(fail, result=None, effects="ordered_debug"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="too large"):
        seen_by(call, 1.0)
    assert seen_by(call, 0.0) == [0.0]


# -- with a result -----------------------------------------------------------------------------------
@pytest.fixture
def take():
    """A function without arguments: how often it has been called."""
    calls = iter(range(1, 1000))
    return cb.external(lambda: np.float32(next(calls)), result=NUMBER, effects="ordered_debug")


def products(take):
    """x times the first three numbers; and these, as the program got them."""

    def step(x, _):
        number = take()
        return x * number, number

    return lambda x: jax.lax.scan(step, x, length=3)


def checkpointed(take):
    step = jax.checkpoint(lambda x, _: (jnp.sin(x) * take(), None))
    return lambda x: jax.lax.scan(step, x, length=3)[0]


def given(x):
    """What `checkpointed` is, without a host."""
    for number in (1, 2, 3):
        x = jnp.sin(x) * number
    return x


def test_a_result_in_order(take):
    product, numbers = jax.jit(products(take))(1.0)
    assert (float(product), numbers.tolist()) == (6.0, [1.0, 2.0, 3.0])


def test_a_result_that_no_lane_changes_is_one_for_all(take):
    product, numbers = jax.jit(jax.vmap(products(take)))(jnp.array([1.0, 2.0]))
    assert product.tolist() == [6.0, 12.0]
    assert numbers.tolist() == [[1.0, 2.0, 3.0]] * 2


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_derivatives_pass_a_result_by(take, wrap):
    def product(x):
        return products(take)(x)[0]

    assert float(wrap(jax.grad(product))(1.0)) == 6.0
    assert [float(x) for x in wrap(lambda x: jax.jvp(product, (x,), (x,)))(2.0)] == [240.0] * 2
    assert float(wrap(jax.hessian(lambda x: product(x) ** 2))(1.0)) == 2 * (7 * 8 * 9) ** 2
    assert float(take()) == 10


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize("outer", [lambda f: f, jax.checkpoint])
def test_a_result_is_kept_where_checkpoint_computes_again(take, wrap, outer):
    gradient = wrap(jax.grad(outer(checkpointed(take))))(1.0)
    np.testing.assert_allclose(gradient, jax.grad(given)(1.0), rtol=1e-6)
    assert float(take()) == 4


def test_a_result_in_conditions_and_loops(take):
    def branch(x):
        return jax.lax.cond(x > 0, lambda x: x * take(), lambda x: x, x)

    def loop(x):
        return jax.lax.while_loop(lambda x: x < 4, lambda x: x + take(), x)

    assert float(jax.jit(jax.grad(branch))(2.0)) == 1.0
    assert float(jax.grad(branch)(-2.0)) == 1.0
    assert float(jax.jit(loop)(0.0)) == 5
    both = jax.jit(jax.vmap(branch))(jnp.array([1.0, -1.0]))  # JAX runs both branches
    assert both.tolist() == [4.0, -1.0]


def test_a_result_on_each_device(take):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices(8))
    spec = PartitionSpec("x")
    function = jax.shard_map(
        lambda x: products(take)(x)[1] + 0 * x, mesh=mesh, in_specs=spec, out_specs=spec
    )
    numbers = np.asarray(jax.jit(function)(jnp.zeros(24))).reshape(8, 3)
    assert (np.diff(numbers) > 0).all()
    assert sorted(numbers.flat) == list(range(1, 25))


def test_a_result_in_a_program_that_the_compiler_distributes(take):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices(8))
    xs = jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec("x")))
    product, numbers = jax.jit(products(take))(xs)
    assert product.tolist() == [6.0] * 8 and numbers.tolist() == [1.0, 2.0, 3.0]


def test_results_of_lanes():
    observe = cb.external(
        lambda x: (seen.append(x.tolist()), x)[1], result=cb.like(0), effects="ordered_debug"
    )
    xs = jnp.arange(3.0)
    for wrap in (jax.vmap, lambda f: lambda x: jax.jvp(jax.vmap(f), (x,), (x,))[0]):
        assert wrap(observe)(xs).tolist() == [0.0, 1.0, 2.0]
    assert jax.vmap(lambda x: observe.call_where(x > 1, x))(xs).tolist() == [0.0, 0.0, 2.0]
    assert seen == [0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 2.0]


def test_what_it_cannot_have():
    with pytest.raises(ValueError, match="effects='ordered_debug'.* no order across them"):
        cb.external(note, result=None, effects="ordered_debug", per_shard=True)
    with pytest.raises(ValueError, match="effects='ordered_debug', so it has no derivative"):
        cb.external(note, result=None, effects="ordered_debug").defjvps(None)


def test_a_program_that_is_partly_manual_has_no_order(take):
    mesh = jax.make_mesh(
        (4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=devices(8)
    )
    spec = PartitionSpec("x")
    function = jax.shard_map(
        lambda x: x * take(), mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"x"}
    )
    with pytest.raises(NotImplementedError, match="all mesh axes are partitioned manually"):
        jax.jit(function)(jnp.ones(8))
