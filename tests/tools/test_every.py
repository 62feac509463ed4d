"""What every() calls, in which order and how often, under each transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compile_count, devices, plain
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import callbax as cb
from callbax import tools


class Seen:
    """A host function that remembers its arguments."""

    def __init__(self):
        self.calls = []

    def __call__(self, *args):
        self.calls.append(tuple(map(plain, args)))
        return len(self.calls)  # is ignored


@pytest.fixture
def seen():
    return Seen()


ORDERS = pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
STEPS = 5


def loops(seen, **options):
    """Loops of five steps that call on each second one, with the step and the value."""

    def body(i, x):
        tools.every(2, i, seen, i, x, **options)
        return jnp.sin(x)

    def scan(x):
        return lax.scan(lambda c, i: (body(i, c), None), x, jnp.arange(STEPS))[0]

    def fori(x):
        return lax.fori_loop(0, STEPS, body, x)

    def until(x):
        return lax.while_loop(
            lambda s: s[0] < STEPS, lambda s: (s[0] + 1, body(s[0], s[1])), (0, x)
        )[1]

    return {"scan": scan, "fori_loop": fori, "while_loop": until}


def values(x, steps=STEPS):
    """What the loops call with."""
    expected = []
    for i in range(steps):
        if i % 2 == 0:
            expected.append((i, pytest.approx(x, abs=1e-6)))
        x = float(np.sin(x))
    return expected


TRANSFORMS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "jvp": lambda f: jax.jit(lambda x: jax.jvp(f, (x,), (1.0,))[1]),
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](1.0),
    "grad": lambda f: jax.jit(jax.grad(f)),
    "checkpoint": lambda f: jax.jit(jax.grad(jax.checkpoint(f))),
    "cond": lambda f: jax.jit(lambda x: lax.cond(x > 0, f, lambda x: x, x)),
}


@ORDERS
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("loop", ["scan", "fori_loop", "while_loop"])
def test_each_second_step_calls_once(seen, loop, transform, ordered):
    if loop == "while_loop" and transform in ("grad", "checkpoint"):
        pytest.skip("JAX differentiates no while_loop in reverse")
    program = TRANSFORMS[transform](loops(seen, ordered=ordered)[loop])
    for _ in range(2):
        seen.calls.clear()
        program(0.5)
        cb.effects_barrier()
        assert seen.calls == values(0.5)


@ORDERS
@pytest.mark.parametrize("loop", ["scan", "fori_loop", "while_loop"])
def test_lanes(seen, loop, ordered):
    """One call a lane, lane after lane."""
    jax.jit(jax.vmap(loops(seen, ordered=ordered)[loop]))(jnp.array([0.5, 1.0]))
    cb.effects_barrier()
    expected = [call for pair in zip(values(0.5), values(1.0), strict=True) for call in pair]
    assert seen.calls == expected


@ORDERS
@pytest.mark.parametrize("nested", [False, True], ids=["vmap", "nested vmap"])
def test_a_batch_is_one_call(seen, nested, ordered):
    loop = loops(seen, ordered=ordered, vmap_method="expand_dims")["scan"]
    x = jnp.array([0.5, 1.0])
    for _ in range(1 + nested):
        loop = jax.vmap(loop)
    jax.jit(jax.grad(lambda x: loop(x).sum()))(x[None] if nested else x)
    cb.effects_barrier()
    assert [np.ravel(step).tolist() for step, _ in seen.calls] == [[0], [2], [4]]
    pairs = zip(values(0.5), values(1.0), strict=True)
    assert [np.ravel(x).tolist() for _, x in seen.calls] == [[a[1], b[1]] for a, b in pairs]


@ORDERS
def test_lanes_with_steps_of_their_own(seen, ordered):
    def f(i, x):
        tools.every(2, i, seen, i, x, ordered=ordered)

    jax.jit(jax.vmap(f))(jnp.array([3, 4, 6]), jnp.arange(3.0))
    cb.effects_barrier()
    assert seen.calls == [(4, 1.0), (6, 2.0)]
    seen.calls.clear()
    jax.jit(jax.vmap(f))(jnp.array([3, 5]), jnp.arange(2.0))
    assert seen.calls == []


def test_lanes_of_a_while_loop_that_have_ended_keep_their_step(seen):
    def f(n):
        def body(i):
            tools.every(2, i, seen, i, n)
            return i + 1

        return lax.while_loop(lambda i: i < n, body, 0)

    assert jax.jit(jax.vmap(f))(jnp.array([1, 4])).tolist() == [1, 4]
    assert seen.calls == [(0, 1), (0, 4), (2, 4)]
    seen.calls.clear()
    jax.jit(jax.vmap(f))(jnp.array([2, 4]))
    assert seen.calls == [(0, 2), (0, 4), (2, 2), (2, 4), (2, 2)]  # the first has ended at 2


@ORDERS
@pytest.mark.parametrize("way", ["shard_map", "pmap"])
def test_each_device_calls(seen, way, ordered):
    count = len(devices(8))
    loop = loops(seen, ordered=ordered)["scan"]
    if way == "pmap":
        program = jax.pmap(loop)
    else:
        mesh = Mesh(np.array(jax.devices()[:count]), ("d",))
        program = jax.shard_map(
            lambda x: loop(x[0])[None], mesh=mesh, in_specs=P("d"), out_specs=P("d")
        )
    jax.jit(program)(jnp.full(count, 0.5)) if way == "shard_map" else program(jnp.full(count, 0.5))
    cb.effects_barrier()
    assert sorted(step for step, _ in seen.calls) == [0] * count + [2] * count + [4] * count


def test_other_arguments(seen):
    @jax.jit
    def f(n, x):
        for i in range(4):
            tools.every(n, i, seen, "text", {"x": x, "i": i})

    f(3, 1.0)
    assert sorted(call[1]["i"] for call in seen.calls) == [0, 3]
    assert all(call[0] == "text" and call[1]["x"] == 1.0 for call in seen.calls)


def test_nothing_is_traced_again(seen):
    traced = []

    @jax.jit
    def f(i):
        traced.append(i)
        tools.every(2, i, seen, i)

    for i in range(4):
        f(i)
    assert len(traced) == 1 and seen.calls == [(0,), (2,)]


def test_outside_of_programs_nothing_is_compiled_again(seen):
    def call(i):
        tools.every(2, i, seen, "text", i, jnp.float32(i))

    call(0)
    call(1)
    with compile_count() as compiled:
        for i in range(2, 7):
            call(i)
    cb.effects_barrier()
    assert not compiled
    assert seen.calls == [("text", i, float(i)) for i in (0, 2, 4, 6)]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32"])
def test_steps_of_any_type_and_any_n(seen, dtype):
    last = min(jnp.iinfo(dtype).max, 300)
    steps = jnp.arange(last + 1, dtype=dtype)
    for n in (7, 127, 128, 232, 256, 1000, 2**31, 2**32, 10**12):
        jax.lax.map(lambda i: tools.every(n, i, seen, i), steps)
        cb.effects_barrier()
        assert [int(i) for (i,) in seen.calls] == list(range(0, last + 1, n))
        seen.calls.clear()


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32"])
def test_an_n_of_the_program_has_any_type(seen, dtype, promotion):
    n = jnp.asarray(100, dtype)

    @jax.jit
    def program(n, first):
        def step(i, state):
            tools.every(n, first + i, seen, first + i, ordered=True)
            return state

        lax.fori_loop(0, 401, step, ())

    with jax.numpy_dtype_promotion(promotion):
        for first in (jnp.int32(0), jnp.int32(-200), jnp.uint32(2**31)):
            program(n, first)
            cb.effects_barrier()
            numbers = range(int(first), int(first) + 401)
            assert [int(i) for (i,) in seen.calls] == [i for i in numbers if i % 100 == 0]
            seen.calls.clear()


def test_an_exception_is_the_programs(seen):
    def fails(x):
        raise KeyError("lost")

    with pytest.raises(jax.errors.JaxRuntimeError, match=r"the callback .*fails .*test_every.py"):
        jax.jit(lambda i: tools.every(2, i, fails, i))(4)
    jax.jit(lambda i: tools.every(2, i, fails, i))(5)


def test_arguments_that_are_refused(seen):
    for error, message, make in (
        (ValueError, "n=0 is less than 1", lambda: tools.every(0, 1, seen)),
        (ValueError, "n=-2 is less than 1", lambda: tools.every(jnp.int32(-2), 1, seen)),
        (TypeError, "n=2.5 is not an integer", lambda: tools.every(2.5, 1, seen)),
        (TypeError, "step is float32", lambda: tools.every(2, 1.0, seen)),
        (TypeError, "step is not an integer: None", lambda: tools.every(2, None, seen)),
        (TypeError, "n is float32", lambda: tools.every(jnp.float32(2), 1, seen)),
        (TypeError, r"n is int32\[2\]", lambda: tools.every(jnp.arange(2), 1, seen)),
        (
            TypeError,
            r"step is int32\[3\], but one integer",
            lambda: tools.every(2, jnp.arange(3), seen),
        ),
        (TypeError, "function=3 is not callable", lambda: tools.every(2, 1, 3)),
        (
            ValueError,
            "vmap_method='x' is not one of",
            lambda: tools.every(2, 1, seen, vmap_method="x"),
        ),
    ):
        with pytest.raises(error, match=message):
            make()
