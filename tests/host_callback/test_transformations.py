"""What taps see under each of JAX's transformations, and in which order.

The expected values are those of JAX's own host_callback, in the last version that had it (0.4.30), for
the same programs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compile_count
from jax import lax
from taps import TRANSPOSE, Taps, batch

import callbax

PAIR = batch(0, 0)
ONE = batch(0)

# By name: the program, of (taps, x) for x = 3.0; what it returns; what is seen.
OF_SCALARS = {
    "eager": (lambda t, x: t.tap(2 * x), 6.0, [(6.0, ())]),
    "jit": (lambda t, x: jax.jit(lambda x: 3 * t.tap(2 * x))(x), 18.0, [(6.0, ())]),
    "what is returned is not used": (
        lambda t, x: jax.jit(lambda x: (t.tap(x), t.tap(x + 1), x + 1)[-1])(x),
        4.0,
        [(3.0, ()), (4.0, ())],
    ),
    "result": (lambda t, x: jax.jit(lambda x: t.tap(x, result=5 * x))(x), 15.0, [(3.0, ())]),
    "no argument": (lambda t, x: jax.jit(lambda x: t.tap(None, result=x))(x), 3.0, [(None, ())]),
    "nested jit": (
        lambda t, x: jax.jit(lambda x: t.tap(jax.jit(lambda y: t.tap(t.tap(y) + 1))(x) + 1))(x),
        5.0,
        [(3.0, ()), (4.0, ()), (5.0, ())],
    ),
    "taps and calls": (
        lambda t, x: jax.jit(lambda x: (t.tap(x), t.call(x), t.tap(x + 1))[1])(x),
        3.0,
        [(3.0, ()), (3.0, "call"), (4.0, ())],
    ),
    "jvp": (
        lambda t, x: jax.jvp(lambda x: t.tap(x) ** 2, (x,), (1.0,)),
        (9.0, 6.0),
        [(3.0, ())],
    ),
    "linearize": (
        lambda t, x: jax.linearize(lambda x: t.tap(x) ** 2, x)[1](2.0),
        12.0,
        [(3.0, ())],
    ),
    "grad": (lambda t, x: jax.grad(lambda x: x * t.tap(2 * x))(x), 12.0, [(6.0, ())]),
    "grad of what is not used": (
        lambda t, x: jax.grad(lambda x: (t.tap(5 * x), x)[1])(x),
        1.0,
        [(15.0, ())],
    ),
    "grad of grad": (
        lambda t, x: jax.grad(jax.grad(lambda x: t.tap(x) ** 3))(x),
        18.0,
        [(3.0, ())],
    ),
    "hessian": (lambda t, x: jax.hessian(lambda x: t.tap(x) ** 3)(x), 18.0, [(3.0, ())]),
    "jit of grad of jit": (
        lambda t, x: jax.jit(jax.grad(jax.jit(lambda x: t.tap(x) ** 3)))(x),
        27.0,
        [(3.0, ())],
    ),
    "linear_transpose": (
        lambda t, x: jax.linear_transpose(lambda y: 2 * t.tap(y), x)(x)[0],
        6.0,
        [(6.0, (TRANSPOSE,))],
    ),
    "checkpoint": (
        lambda t, x: jax.grad(jax.checkpoint(lambda x: t.tap(x) ** 2))(x),
        6.0,
        [(3.0, ()), (3.0, ())],
    ),
    "checkpoint in between": (
        lambda t, x: jax.grad(lambda x: jax.checkpoint(lambda y: t.tap(y) ** 2)(x) * t.tap(x + 1))(
            x
        ),
        33.0,
        [(3.0, ()), (4.0, ()), (3.0, ())],
    ),
    "scan": (
        lambda t, x: lax.scan(lambda c, i: (t.tap(c + i), None), x, jnp.arange(2.0))[0],
        4.0,
        [(3.0, ()), (4.0, ())],
    ),
    "grad of scan": (
        lambda t, x: jax.grad(
            lambda x: lax.scan(lambda c, _: (t.tap(c) ** 2, None), x, None, 2)[0]
        )(x),
        108.0,
        [(3.0, ()), (9.0, ())],
    ),
    "grad of scan of checkpoint": (
        lambda t, x: jax.grad(
            lambda x: lax.scan(jax.checkpoint(lambda c, _: (t.tap(c) ** 2, None)), x, None, 2)[0]
        )(x),
        108.0,
        [(3.0, ()), (9.0, ()), (9.0, ()), (3.0, ())],
    ),
    "what does not depend on the step": (
        lambda t, x: jax.grad(
            lambda x: lax.scan(lambda c, _: (c * t.tap(x), None), 1.0, None, 2)[0]
        )(x),
        6.0,
        [(3.0, ()), (3.0, ())],
    ),
    "scan of scan": (
        lambda t, x: lax.scan(
            lambda c, i: (lax.scan(lambda c, j: (c, t.tap(10 * i + j)), c, jnp.arange(2))[0], None),
            x,
            jnp.arange(2),
        )[0],
        3.0,
        [(0, ()), (1, ()), (10, ()), (11, ())],
    ),
    "while_loop": (
        lambda t, x: lax.while_loop(lambda c: t.tap(c < 5), lambda c: t.tap(c + 1), x),
        5.0,
        [(True, ()), (4.0, ()), (True, ()), (5.0, ()), (False, ())],
    ),
    "jvp of fori_loop": (
        lambda t, x: jax.jvp(
            lambda x: lax.fori_loop(0, 2, lambda i, c: t.tap(c) ** 2, x), (x,), (1.0,)
        ),
        (81.0, 108.0),
        [(3.0, ()), (9.0, ())],
    ),
    "grad by a while_loop's state": (
        lambda t, x: jax.grad(
            lambda x: lax.while_loop(lambda c: c[0] < 2, lambda c: (t.tap(c[0]) + 1, c[1]), (0, x))[
                1
            ]
        )(x),
        1.0,
        [(0, ()), (1, ())],
    ),
    "cond": (
        lambda t, x: jax.jit(lambda x: lax.cond(x > 4, lambda: t.tap(x), lambda: t.tap(-x)))(x),
        -3.0,
        [(-3.0, ())],
    ),
    "switch": (
        lambda t, x: jax.jit(lambda i: lax.switch(i, [lambda: t.tap(1), lambda: t.tap(2)]))(1),
        2,
        [(2, ())],
    ),
}


def custom_jvp(taps):
    """The identity, of which the tangents are tapped."""
    f = jax.custom_jvp(lambda x: x)
    f.defjvp(lambda primals, tangents: (f(*primals), taps.tap(tangents[0])))
    return f


def custom_vjp(taps):
    """The identity, of which primal values and cotangents are tapped."""
    f = jax.custom_vjp(lambda x: x)
    f.defvjp(lambda x: (taps.tap(x), None), lambda _, cotangent: (taps.tap(cotangent),))
    return f


OF_SCALARS |= {
    "jvp of a rule": (
        lambda t, x: jax.jvp(lambda x: custom_jvp(t)(x) ** 2, (x,), (1.0,)),
        (9.0, 6.0),
        [(1.0, ())],
    ),
    "grad of a rule for jvp": (
        lambda t, x: jax.grad(lambda x: custom_jvp(t)(x) ** 2)(x),
        6.0,
        [(6.0, (TRANSPOSE,))],
    ),
    "grad of scan of a rule for jvp": (
        lambda t, x: jax.grad(
            lambda x: lax.scan(lambda c, _: (3 * custom_jvp(t)(c), None), x, None, 2)[0]
        )(x),
        9.0,
        [(3.0, (TRANSPOSE,)), (9.0, (TRANSPOSE,))],
    ),
    "grad of a rule for vjp": (
        lambda t, x: jax.grad(lambda x: custom_vjp(t)(x) ** 2)(x),
        6.0,
        [(3.0, ()), (6.0, ())],
    ),
    "grad of scan of a rule for vjp": (
        lambda t, x: jax.grad(
            lambda x: lax.scan(lambda c, _: (3 * custom_vjp(t)(c), None), x, None, 2)[0]
        )(x),
        9.0,
        [(3.0, ()), (9.0, ()), (3.0, ()), (9.0, ())],
    ),
}

# The same, for x = [1.0, 2.0].
OF_BATCHES = {
    "vmap": (lambda t, x: jax.vmap(t.tap)(x), [1.0, 2.0], [([1.0, 2.0], (ONE,))]),
    "jit of vmap": (lambda t, x: jax.jit(jax.vmap(t.tap))(x), [1.0, 2.0], [([1.0, 2.0], (ONE,))]),
    "vmap of jit": (lambda t, x: jax.vmap(jax.jit(t.tap))(x), [1.0, 2.0], [([1.0, 2.0], (ONE,))]),
    "what is not batched": (
        lambda t, x: jax.vmap(lambda x: t.tap((3.0, x))[1])(x),
        [1.0, 2.0],
        [((3.0, [1.0, 2.0]), (batch(None, 0),))],
    ),
    "nothing is batched": (
        lambda t, x: jax.vmap(lambda x: (t.tap(3.0), x)[1])(x),
        [1.0, 2.0],
        [(3.0, ())],
    ),
    "another axis": (
        lambda t, x: jax.vmap(t.tap, in_axes=1, out_axes=1)(jnp.stack([x, x + 2])),
        [[1.0, 2.0], [3.0, 4.0]],
        [([[1.0, 2.0], [3.0, 4.0]], (batch(1),))],
    ),
    "result is not tapped": (
        lambda t, x: jax.vmap(lambda x: t.tap(x, result=-x))(x),
        [-1.0, -2.0],
        [([1.0, 2.0], (ONE,))],
    ),
    "vmap of vmap": (
        lambda t, x: jax.vmap(
            jax.vmap(lambda a, b: t.tap((a, b))[0] + b, in_axes=(0, None)), in_axes=(None, 0)
        )(x, 10 * x),
        [[11.0, 12.0], [21.0, 22.0]],
        [(([1.0, 2.0], [10.0, 20.0]), (batch(0, None), batch(None, 0)))],
    ),
    "vmap of grad": (
        lambda t, x: jax.vmap(jax.grad(lambda x: t.tap((x, x * x))[1] * x))(x),
        [3.0, 12.0],
        [(([1.0, 2.0], [1.0, 4.0]), (PAIR,))],
    ),
    "grad of vmap": (
        lambda t, x: jax.grad(lambda x: jax.vmap(lambda x: t.tap(x) ** 2)(x).sum())(x),
        [2.0, 4.0],
        [([1.0, 2.0], (ONE,))],
    ),
    "vmap of grad of a rule for jvp": (
        lambda t, x: jax.vmap(jax.grad(lambda x: custom_jvp(t)(x) ** 2))(x),
        [2.0, 4.0],
        [([2.0, 4.0], (TRANSPOSE, ONE))],
    ),
    "vmap of grad of a rule for vjp": (
        lambda t, x: jax.vmap(jax.grad(lambda x: custom_vjp(t)(x) ** 2))(x),
        [2.0, 4.0],
        [([1.0, 2.0], (ONE,)), ([2.0, 4.0], (ONE,))],
    ),
    "vmap of scan": (
        lambda t, x: jax.vmap(
            lambda x: lax.scan(lambda c, i: (t.tap(c + i), None), x, jnp.arange(2.0))[0]
        )(x),
        [2.0, 3.0],
        [([1.0, 2.0], (ONE,)), ([2.0, 3.0], (ONE,))],
    ),
    "scan of vmap": (
        lambda t, x: lax.scan(lambda c, i: (jax.vmap(t.tap)(c + i), None), x, jnp.arange(2.0))[0],
        [2.0, 3.0],
        [([1.0, 2.0], (ONE,)), ([2.0, 3.0], (ONE,))],
    ),
    "map": (lambda t, x: lax.map(t.tap, x), [1.0, 2.0], [(1.0, ()), (2.0, ())]),
    "vmap of cond with one predicate": (
        lambda t, x: jax.vmap(lambda x: lax.cond(jnp.bool_(True), t.tap, lambda x: x, x))(x),
        [1.0, 2.0],
        [([1.0, 2.0], (ONE,))],
    ),
    "vmap of cond with a predicate of each lane: both branches, all lanes": (
        lambda t, x: jax.vmap(lambda x: lax.cond(x > 1, t.tap, lambda x: t.tap(-x), x))(x),
        [-1.0, 2.0],
        [([-1.0, -2.0], (ONE,)), ([1.0, 2.0], (ONE,))],
    ),
    "vmap of while_loop: until all lanes have ended": (
        lambda t, x: jax.vmap(
            lambda x: lax.while_loop(lambda c: t.tap(c < 3), lambda c: t.tap(c + 1), x)
        )(x),
        [3.0, 3.0],
        [
            ([True, True], (ONE,)),
            ([2.0, 3.0], (ONE,)),
            ([True, False], (ONE,)),
            ([3.0, 4.0], (ONE,)),
            ([False, False], (ONE,)),
        ],
    ),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", OF_SCALARS)
def test_scalars(name):
    program, result, seen = OF_SCALARS[name]
    check(program, 3.0, result, seen)


@pytest.mark.parametrize("name", OF_BATCHES)
def test_batches(name):
    program, result, seen = OF_BATCHES[name]
    check(program, jnp.array([1.0, 2.0]), result, seen)


def check(program, x, result, seen):
    taps = Taps()
    value = program(taps, x)
    assert taps.all() == seen
    jax.tree.map(np.testing.assert_allclose, value, jax.tree.map(np.float32, result))


def test_one_trace_runs_again_and_again():
    taps = Taps()
    f = jax.jit(lambda x: taps.tap(taps.tap(x) + 1))
    assert [int(f(1)), int(f(10))] == [2, 11]
    assert taps.values() == [1, 2, 10, 11]


def test_equal_functions_are_compiled_once():
    taps = Taps()
    f = jax.jit(lambda x: (taps.tap(x), taps.call(x))[1])
    assert f.lower(1.0).as_text() == f.lower(1.0).as_text()
    with compile_count() as compiled:
        f(1.0)
        f(2.0)
    assert len(compiled) == 1


def test_a_call_in_a_checkpoint_runs_once():
    """Its result is kept, so that no other can take its place."""
    taps = Taps()

    def f(x):
        return jnp.sin(x) * taps.call(lax.stop_gradient(x))

    assert np.isclose(jax.grad(jax.checkpoint(f))(2.0), 2 * np.cos(2.0))
    assert taps.values() == [2.0]


def test_each_dtype_and_pytree():
    taps = Taps()
    tree = {"b": (np.int8(1), [True]), "a": None, "c": jnp.ones((2, 0)), "d": jnp.bfloat16(2)}
    jax.jit(taps.tap)(tree)
    taps.tap(jax.random.key(7))
    assert taps.values() == [{"a": None, "b": (1, [True]), "c": [[], []], "d": 2.0}, [0, 7]]


def test_what_is_returned_are_jax_arrays():
    taps = Taps()
    tapped = taps.tap({"a": 1, "b": (np.float32(2), True)})
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tapped))
    assert tapped == {"a": 1, "b": (2.0, True)}
    assert isinstance(taps.tap(1, result=2.5), jax.Array)
    assert taps.values() == [{"a": 1, "b": (2.0, True)}, 1]


def test_ordered_callbacks_of_both_libraries_run_beside_them():
    taps = Taps()
    order = []

    @jax.jit
    def f(x):
        taps.tap(x)
        callbax.io_callback(lambda x: order.append(("io", float(x))), None, x, ordered=True)
        jax.debug.callback(lambda x: order.append(("debug", float(x))), x, ordered=True)
        taps.tap(x + 1)

    f(1.0)
    assert taps.values() == [1.0, 2.0]
    assert sorted(order) == [("debug", 1.0), ("io", 1.0)]
