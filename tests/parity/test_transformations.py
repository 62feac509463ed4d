"""Every flavour under every transformation: one table, the same outcome in both libraries."""

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import both_in_any_order, both_raise, devices
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

pytestmark = pytest.mark.sampled(6)

MESH = Mesh(np.array(jax.devices()[:2]), ("i",))
SPLIT = NamedSharding(MESH, PartitionSpec("i"))
PAIR = jnp.array([1.0, 2.0])
ONE = jnp.float32(1)


def custom_jvp(f):
    """f with the derivative 5, which needs no derivative of the callback."""
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda primals, tangents: (wrapped(*primals), 5 * tangents[0]))
    return wrapped


def custom_vjp(f):
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda x: (f(x), None), lambda _, cotangent: (5 * cotangent,))
    return wrapped


def linear_solve(f):
    return lax.custom_linear_solve(lambda v: 2 * v, PAIR, lambda _, b: f(b) / 2)


def mutate(f):
    """f of what a Ref holds."""

    @jax.jit
    def program(x):
        ref = jax.new_ref(x)
        ref[...] = f(ref[...]) + 1
        return f(ref[...])

    return program(ONE)


# Each calls f (which gives its argument back); then the expected calls, in any order, and value.
PROGRAMS = {
    "eager": (lambda f: f(ONE), [1.0], 1.0),
    "jit": (lambda f: jax.jit(f)(ONE), [1.0], 1.0),
    "nested jit": (lambda f: jax.jit(lambda x: jax.jit(f)(x) + 1)(ONE), [1.0], 2.0),
    "inlined jit": (lambda f: jax.jit(jax.jit(f, inline=True))(ONE), [1.0], 1.0),
    "ahead of time": (lambda f: jax.jit(f).lower(ONE).compile()(ONE), [1.0], 1.0),
    "eval_shape": (lambda f: jax.eval_shape(f, ONE).shape, [], ()),
    "eval_jaxpr": (lambda f: jax.core.eval_jaxpr(*_opened(f), ONE)[0], [1.0], 1.0),
    "vmap": (lambda f: jax.vmap(f)(PAIR), [1.0, 2.0], [1.0, 2.0]),
    "vmap of jit": (lambda f: jax.vmap(jax.jit(f))(PAIR), [1.0, 2.0], [1.0, 2.0]),
    "jit of vmap": (lambda f: jax.jit(jax.vmap(f))(PAIR), [1.0, 2.0], [1.0, 2.0]),
    "vmap with in_axes": (
        lambda f: jax.vmap(f, in_axes=1, out_axes=1)(jnp.array([[1.0, 2.0], [3.0, 4.0]])),
        [[1.0, 3.0], [2.0, 4.0]],
        [[1.0, 2.0], [3.0, 4.0]],
    ),
    "nested vmap": (
        lambda f: jax.vmap(jax.vmap(f))(jnp.array([[1.0, 2.0], [3.0, 4.0]])),
        [1.0, 2.0, 3.0, 4.0],
        [[1.0, 2.0], [3.0, 4.0]],
    ),
    "vmap over an axis name": (
        lambda f: jax.vmap(lambda x: lax.psum(f(x), "n"), axis_name="n")(PAIR),
        [1.0, 2.0],
        [3.0, 3.0],
    ),
    "vmap over devices": (
        lambda f: jax.jit(jax.vmap(f, spmd_axis_name="i"), in_shardings=SPLIT)(PAIR),
        [1.0, 2.0],
        [1.0, 2.0],
    ),
    "map": (lambda f: lax.map(f, PAIR), [1.0, 2.0], [1.0, 2.0]),
    "scan": (lambda f: lax.scan(lambda c, x: (c, f(x)), 0, PAIR)[1], [1.0, 2.0], [1.0, 2.0]),
    "custom_jvp": (lambda f: custom_jvp(f)(ONE), [1.0], 1.0),
    "grad of custom_jvp": (lambda f: jax.value_and_grad(custom_jvp(f))(ONE), [1.0], (1.0, 5.0)),
    "vmap of custom_jvp": (lambda f: jax.vmap(custom_jvp(f))(PAIR), [1.0, 2.0], [1.0, 2.0]),
    "custom_vjp": (lambda f: custom_vjp(f)(ONE), [1.0], 1.0),
    "grad of custom_vjp": (lambda f: jax.value_and_grad(custom_vjp(f))(ONE), [1.0], (1.0, 5.0)),
    "vmap of grad of custom_vjp": (
        lambda f: jax.vmap(jax.grad(custom_vjp(f)))(PAIR),
        [1.0, 2.0],
        [5.0, 5.0],
    ),
    "checkpoint": (lambda f: jax.checkpoint(f)(ONE), [1.0], 1.0),
    "custom_linear_solve": (linear_solve, [[1.0, 2.0]], [0.5, 1.0]),
    "pmap": (lambda f: jax.pmap(f)(PAIR), [1.0, 2.0], [1.0, 2.0]),
    "pmap of vmap": (lambda f: jax.pmap(jax.vmap(f))(PAIR[:, None]), [1.0, 2.0], [[1.0], [2.0]]),
    "shard_map": (
        lambda f: jax.shard_map(f, mesh=MESH, in_specs=SPLIT.spec, out_specs=SPLIT.spec)(PAIR),
        [[1.0], [2.0]],
        [1.0, 2.0],
    ),
    "sharded jit": (lambda f: jax.jit(f, in_shardings=SPLIT)(PAIR), [[1.0, 2.0]], [1.0, 2.0]),
    "donation": (lambda f: jax.jit(f, donate_argnums=0)(jnp.array(1.0)), [1.0], 1.0),
    "a Ref's value": (mutate, [1.0, 2.0], 2.0),
    "named scope": (lambda f: jax.jit(jax.named_call(f, name="scope"))(ONE), [1.0], 1.0),
    "disabled jit": (lambda f: _without_jit(f), [1.0], 1.0),
}


def _opened(f):
    closed = jax.make_jaxpr(f)(ONE)
    return closed.jaxpr, closed.consts


def _without_jit(f):
    with jax.disable_jit():
        return jax.jit(f)(ONE)


DISTRIBUTED = {"pmap", "pmap of vmap", "shard_map", "sharded jit", "vmap over devices"}
# What both libraries refuse: (transformations, flavours, error, phrase).
LANES = {name for name in PROGRAMS if "vmap" in name} | {"pmap of vmap"}
REFUSED = [
    (LANES, {flavours.ordered_io}, ValueError, "Cannot `vmap` ordered IO callback."),
    (
        {"sharded jit", "pmap", "pmap of vmap", "vmap over devices"},
        {flavours.ordered_debug},
        ValueError,
        "not supported for more than 1 device",
    ),
]


@pytest.mark.parametrize("name", PROGRAMS)
@flavours.each(flavours.ALL)
def test_every_flavour_under_every_transformation(name, call):
    """The same program through both libraries: values, calls, errors."""
    if name in DISTRIBUTED:
        devices(2)
    transformed, calls, value = PROGRAMS[name]

    def program(library, record):
        return transformed(lambda x: call(library, record, x))

    for names, refused, error, phrase in REFUSED:
        if name in names and call in refused:
            both_raise(program, error, phrase)
            return
    outcome = both_in_any_order(program)
    assert outcome.sorted_calls == sorted(calls, key=repr)
    assert jax.tree.map(lambda x: np.asarray(x).tolist(), outcome.value) == value


@pytest.mark.parametrize("method", ["sequential", "expand_dims", "broadcast_all"])
@pytest.mark.parametrize("in_axes", [(0, 0), (1, 0), (0, None), (None, 1), (-1, 1)], ids=str)
def test_any_in_axes(method, in_axes):
    """Any in_axes, under each method, with two arguments."""

    def program(library, record):
        def f(x, y):
            return library.pure_callback(np.subtract, x, x, y, vmap_method=method)

        x = jnp.arange(9.0).reshape(3, 3)
        return jax.vmap(f, in_axes=in_axes)(
            x if in_axes[0] is not None else x[0], 10 * x if in_axes[1] is not None else x[1]
        )

    outcome = both_in_any_order(program)
    x = np.arange(9.0).reshape(3, 3)
    first = x[0] if in_axes[0] is None else np.moveaxis(x, in_axes[0], 0)
    second = x[1] if in_axes[1] is None else np.moveaxis(10 * x, in_axes[1], 0)
    assert outcome.value.tolist() == (np.zeros((3, 3)) + first - second).tolist()
