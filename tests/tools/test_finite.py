"""check_finite: what its errors say, of values and of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from callbax import tools

NAN, INF = float("nan"), float("inf")
HERE = __file__
ON = f"on {jax.devices()[0]}"


def message(function, *args):
    with pytest.raises(FloatingPointError) as raised:
        tools.checked(function)(*args)
    return str(raised.value)


TREES = {
    "scalar": (1 / jnp.zeros(()), "x", "x is inf"),
    "no name": (NAN, "", "the value is nan"),
    "array": (
        jnp.array([1, NAN, -INF, 2]),
        "x",
        "x has 2 values of 4 that are not finite: nan at [1]",
    ),
    "matrix": (
        jnp.eye(2) / jnp.array([[1, 1], [1, 0]]),
        "x",
        "1 value of 4 that is not finite: inf at [1, 1]",
    ),
    "leaves": (
        {"a": [1.0, NAN], "b": jnp.ones(2), "c": jnp.array([INF])},
        "p",
        "p['a'][1] is nan; p['c'] has 1 value of 1 that is not finite: inf at [0]",
    ),
    "leaves without name": ({"a": NAN}, "", "['a'] is nan"),
    "complex": (jnp.array([1j, complex(0, NAN)]), "x", "x has 1 value of 2"),
    "many leaves": ([NAN] * 20, "x", "x[7] is nan; 12 more leaves ("),
    **{
        dtype: (
            jnp.array([1, NAN], dtype),
            "x",
            "x has 1 value of 2 that is not finite: nan at [1]",
        )
        for dtype in ("float16", "bfloat16", "float8_e5m2", "float8_e4m3fn")
    },
}


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("case", TREES)
def test_what_is_said_of_values(case, transform):
    tree, name, expected = TREES[case]
    text = message(transform(lambda tree: tools.check_finite(tree, name)), tree)
    assert expected in text
    assert f"({HERE}:" in text


def test_what_passes():
    tree = {"a": jnp.ones(3), "b": 1, "c": None, "d": jnp.array([True]), "e": jnp.zeros((0, 2))}
    assert tools.check_finite(tree) is tree
    tools.checked(jax.jit(tools.check_finite))(tree)
    assert tools.check_finite("text") == "text"
    assert tools.check_finite([]) == []


def divide(x, i):
    return tools.check_finite(x / (2 - i), "x", step=i)


def scan(x):
    return lax.scan(lambda c, i: (divide(c, i), None), x, jnp.arange(5))[0]


# By name: a function of x, x, and parts of the message.
PROGRAMS = {
    "scan": (jax.jit(scan), 1.0, ("x is inf (step 2, ",)),
    "fori_loop": (
        jax.jit(lambda x: lax.fori_loop(0, 5, lambda i, c: divide(c, i), x)),
        1.0,
        ("x is inf (step 2, ",),
    ),
    "while_loop": (
        jax.jit(
            lambda x: lax.while_loop(
                lambda c: c[0] < 9, lambda c: (c[0] + 1, divide(c[1], c[0])), (0, x)
            )
        ),
        1.0,
        ("x is inf (step 2, ",),
    ),
    "vmap of scan": (
        jax.jit(jax.vmap(scan)),
        jnp.array([1.0, 0.0, 2.0]),
        ("x is inf (step 2, ", f", in lanes 0, 1, 2 of 3, {ON})"),
    ),
    "vmap": (
        jax.jit(jax.vmap(lambda x, i: tools.check_finite(1 / x, "x", step=i))),
        (jnp.array([1.0, 0.0, 0.0]), jnp.array([5, 6, 7])),
        ("x is inf (step 6, ", f", in lanes 1, 2 of 3, {ON})"),
    ),
    "vmap of vmap": (
        jax.jit(jax.vmap(jax.vmap(lambda x: tools.check_finite(1 / x, "x")))),
        jnp.array([[1.0, 2.0], [0.0, 1.0]]),
        ("x is inf (", f", in lane (1, 0) of 2 x 2, {ON})"),
    ),
    "vmap of many": (
        jax.jit(jax.vmap(lambda x: tools.check_finite(1 / x, "x"))),
        jnp.zeros(20),
        (", in 20 lanes 0, 1, 2, 3, 4, 5, 6, 7, ... of 20, on",),
    ),
    "grad": (jax.jit(jax.grad(lambda x: tools.check_finite(1 / x, "x"))), 0.0, ("x is inf (",)),
    "checkpoint": (jax.jit(jax.grad(jax.checkpoint(scan))), 1.0, ("x is inf (step 2",)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_said_under_transformations(name):
    function, x, expected = PROGRAMS[name]
    text = message(function, *(x if isinstance(x, tuple) else (x,)))
    for part in expected:
        assert part in text


def test_dead_lanes_do_not_count():
    def log(x):
        return tools.check_finite(jnp.log(x), "log")

    function = tools.checked(jax.jit(jax.vmap(lambda x: lax.cond(x > 0, log, lambda x: x, x))))
    np.testing.assert_allclose(function(jnp.array([1.0, -1.0])), [0.0, -1.0])


def root(x, step=None, gradients=True):
    return jnp.sqrt(tools.check_finite(x, "x", step, gradients))


def roots(x):
    """The derivative of the third step is infinite, and then that of those before it."""

    def step(c, i):
        return lax.cond(i == 2, lambda: root(c * 0, i), lambda: root(c + 1, i)), None

    return lax.scan(step, x, jnp.arange(4))[0]


GRADIENTS = {
    "eager": (jax.grad(root), 0.0, "the gradient of x is inf ("),
    "jit": (jax.jit(jax.grad(root)), 0.0, "the gradient of x is inf ("),
    "vmap of grad": (jax.jit(jax.vmap(jax.grad(root))), jnp.arange(3.0), "lane 0 of 3"),
    "grad of vmap": (
        jax.jit(jax.grad(lambda x: jax.vmap(root)(x).sum())),
        jnp.arange(3.0),
        "the gradient of x is inf (",
    ),
    "grad of vmap over another axis": (
        jax.jit(jax.grad(lambda x: jax.vmap(lambda x: root(x).sum(), in_axes=1)(x).sum())),
        jnp.arange(6.0).reshape(2, 3),
        "in lane 0 of 3",
    ),
    "step": (jax.jit(jax.grad(lambda x: root(x, x + 7))), 0.0, "(step 7.0,"),
    "checkpoint": (jax.jit(jax.grad(jax.checkpoint(root))), 0.0, "the gradient of x is inf"),
    "scan": (jax.jit(jax.grad(roots)), 1.0, "(step 2,"),
    "checkpointed scan": (jax.jit(jax.grad(jax.checkpoint(roots))), 1.0, "(step 2,"),
    "vjp": (lambda x: jax.vjp(root, x)[1](1.0), 0.0, "the gradient of x is inf"),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_what_is_said_of_gradients(name):
    function, x, expected = GRADIENTS[name]
    assert expected in message(function, x)


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap"])
def test_gradients_of_dead_lanes_do_not_count(order):
    def function(x):
        return lax.cond(x > 0, root, lambda x: x, x)

    gradients = {
        "vmap of grad": jax.vmap(jax.grad(function)),
        "grad of vmap": jax.grad(lambda x: jax.vmap(function)(x).sum()),
    }
    found = tools.checked(jax.jit(gradients[order]))(jnp.array([0.0, 1.0, 4.0]))
    np.testing.assert_allclose(found, [1.0, 0.5, 0.25])


def test_gradients_are_checked_only_if_asked_and_needed():
    assert tools.checked(jax.jit(jax.grad(lambda x: root(x, gradients=False))))(0.0) == INF
    assert tools.checked(jax.jit(root))(0.0) == 0
    assert tools.checked(jax.jit(lambda x: jax.jvp(root, (x,), (x,))))(0.0)[0] == 0


def test_gradients_are_what_they_were():
    function = jax.jit(jax.grad(lambda x: root(x**2)))
    assert tools.checked(function)(2.0) == 1.0  # exactly, on each device: powers of two
