"""effects="tap": a host function that only looks on, in order and once, whatever JAX makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import callbax as cb

seen = []


def note(step, x):
    seen.append((step.tolist(), x.tolist()))


tap = cb.external(note, result=None, effects="tap", vmap_method="expand_dims")


def looked_at(step, x):
    tap(step, x)
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
    lanes = cb.external(note, result=None, effects="tap")
    assert seen_by(jax.vmap(lambda x: lanes(0, x)), np.arange(2.0)) == [(0, 0.0), (0, 1.0)]


def test_a_batched_loop_goes_on_until_all_lanes_have_ended():
    def count(n):
        return jax.lax.while_loop(lambda i: i < n, lambda i: (tap(0, i), i + 1)[1], 0)

    assert seen_by(jax.vmap(count), jnp.array([1, 2])) == [([0], [0, 0]), ([0], [1, 1])]


def test_live_lanes_only():
    lanes = cb.external(note, result=None, effects="tap")
    call = jax.vmap(lambda x: lanes.call_where(x > 0, 0, x))
    assert seen_by(call, np.arange(3.0)) == [(0, 1.0), (0, 2.0)]


def test_each_device_of_a_manual_program_calls():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("x")
    function = jax.shard_map(scanned, mesh=mesh, in_specs=spec, out_specs=spec)
    calls = seen_by(jax.jit(function), jnp.arange(8.0))
    for device in range(8):
        own = [(step, [device * 2.0**step]) for step in range(3)]
        assert [call for call in calls if call in own] == own
    assert len(calls) == 24


def test_a_program_that_the_compiler_distributes_calls_once():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    xs = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("x")))
    assert seen_by(jax.jit(lambda x: looked_at(0, x)), xs) == [(0, xs.tolist())]


def test_an_error_surfaces_and_the_next_call_works():
    def fail(x):
        if x > 0:
            raise ValueError("too large")
        seen.append(x.tolist())

    call = jax.jit(cb.external(fail, result=None, effects="tap"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="too large"):
        seen_by(call, 1.0)
    assert seen_by(call, 0.0) == [0.0]


def test_what_it_cannot_have():
    with pytest.raises(ValueError, match="only looks at values and has no result"):
        cb.external(note, result=cb.like(0), effects="tap")
    with pytest.raises(ValueError, match="effects='tap'.* no order across them"):
        cb.external(note, result=None, effects="tap", per_shard=True)
    with pytest.raises(ValueError, match="effects='tap', so it has no derivative"):
        cb.external(note, result=None, effects="tap").defjvps(None)
