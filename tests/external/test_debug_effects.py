"""external(effects="debug"): calls with a result that derivatives pass by, and that happen once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import callbax as cb

INT = jax.ShapeDtypeStruct((), np.int32)


class Counter:
    """A host function of one number, which returns how often it has been called."""

    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(np.asarray(x).tolist())
        return np.int32(len(self.seen))


@pytest.fixture
def counter():
    return Counter()


def observer(counter):
    return cb.external(counter, result=INT, effects="debug")


def test_a_result_comes_back_and_the_call_happens_without_its_use(counter):
    observe = observer(counter)
    assert int(jax.jit(lambda x: observe(x) + observe(2 * x))(1.0)) == 3
    jax.jit(lambda x: (observe(x), x)[1])(5.0)
    assert sorted(counter.seen) == [1.0, 2.0, 5.0]


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd, lambda f: lambda x: jax.vjp(f, x)[0]])
def test_derivatives_pass_it_by(counter, derivative):
    observe = observer(counter)
    value = jax.jit(derivative(lambda x: x * x * observe(x)))(3.0)
    assert float(value) in (6.0, 9.0)
    assert counter.seen == [3.0]


def steps_of(observe):
    def loop(x):
        def step(carry, _):
            n = observe(carry)
            return jnp.sin(carry) + 0 * n, None

        return lax.scan(step, x, length=3)[0]

    return loop


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.checkpoint, lambda f: jax.checkpoint(jax.jit(f))]
)
def test_checkpoint_does_not_repeat_it(counter, wrap):
    loop = wrap(steps_of(observer(counter)))
    expected = jax.grad(steps_of(lambda x: 0))(1.0)
    assert np.allclose(jax.jit(jax.grad(loop))(1.0), expected)
    assert len(counter.seen) == 3


def test_checkpoint_of_the_step_does_not_repeat_it(counter):
    observe = observer(counter)
    step = jax.checkpoint(lambda c, x: (jnp.sin(c) + 0 * observe(c), None))
    jax.jit(jax.grad(lambda x: lax.scan(step, x, length=4)[0]))(1.0)
    assert len(counter.seen) == 4


def test_checkpoint_in_a_condition_does_not_repeat_it(counter):
    observe = observer(counter)

    @jax.checkpoint
    def f(x):
        n = lax.cond(x > 0, lambda: observe(x), lambda: jnp.int32(0))
        return jnp.sin(jnp.sin(x)) * n

    jax.jit(jax.grad(f))(1.0)
    assert counter.seen == [1.0]


def test_linearize_of_a_while_loop_calls_once(counter):
    observe = observer(counter)

    def f(x):
        def step(state):
            i, n, x = state
            n = lax.cond(i >= n, lambda: observe(x), lambda: n)
            return i + 1, n, jnp.sin(x)

        return lax.while_loop(lambda state: state[0] < 3, step, (0, 0, x))[2]

    value, linear = jax.linearize(f, 1.0)
    linear(1.0)
    assert len(counter.seen) == 3


def test_lanes(counter):
    observe = observer(counter)
    assert jax.jit(jax.vmap(observe))(jnp.arange(3.0)).tolist() == [1, 2, 3]
    batch = cb.external(
        lambda x: (counter(x), np.full(x.shape, 7, np.int32))[1],
        result=INT,
        effects="debug",
        vmap_method="expand_dims",
    )
    assert jax.jit(jax.vmap(batch))(jnp.arange(2.0)).tolist() == [7, 7]
    assert counter.seen[3:] == [[0.0, 1.0]]


def test_a_batched_condition_is_allowed_and_call_where_calls_live_lanes(counter):
    observe = observer(counter)

    def f(x):
        return lax.cond(x > 0, lambda: observe.call_where(x > 0, x), lambda: jnp.int32(0))

    assert jax.jit(jax.vmap(f))(jnp.array([-1.0, 2.0, -3.0])).tolist() == [0, 1, 0]
    assert counter.seen == [2.0]


@pytest.mark.parametrize("axes", [("a", "b"), ("a",)], ids=["manual", "partly manual"])
def test_shard_map(counter, axes):
    observe = observer(counter)
    mesh = Mesh(np.array(devices(4)).reshape(2, 2), ("a", "b"))
    f = jax.shard_map(
        lambda x: x + observe(x.sum()).astype(x.dtype) * 0,
        mesh=mesh,
        in_specs=P("a"),
        out_specs=P("a"),
        axis_names=set(axes),
    )
    x = jnp.arange(4.0)
    assert jax.jit(f)(x).tolist() == x.tolist()
    assert sorted(counter.seen) == [1.0, 5.0] * 1 if axes == ("a",) else [1.0, 1.0, 5.0, 5.0]


def test_options_that_exclude_one_another():
    with pytest.raises(ValueError, match="has effects='debug', so it has no derivative"):
        cb.external(len, result=INT, effects="debug", derivative="central")
    with pytest.raises(ValueError, match="effects='io', 'ordered', 'debug' or 'ordered_debug'"):
        cb.external(len, result=None)


def test_listeners_hear_of_failures(counter):
    heard = []

    def fails(x):
        raise KeyError("lost")

    stop = cb.on_failure(lambda exception: heard.append(repr(exception)))
    try:
        for _ in range(2):
            with pytest.raises(jax.errors.JaxRuntimeError):
                cb.pure_callback(fails, INT, 1.0).block_until_ready()
            stop()
        with pytest.raises(KeyError):
            cb.debug.callback(fails, 1.0)
    finally:
        stop()
    assert heard == ["KeyError('lost')"]


def test_a_listener_that_fails_changes_nothing(capsys):
    def fails(x):
        raise KeyError("lost")

    def broken(exception):
        raise RuntimeError("the listener's own")

    stop = cb.on_failure(broken)
    try:
        with pytest.raises(jax.errors.JaxRuntimeError, match="KeyError: 'lost'"):
            cb.pure_callback(fails, INT, 1.0).block_until_ready()
    finally:
        stop()
    assert "the listener's own" in capsys.readouterr().err
