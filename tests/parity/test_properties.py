"""Random shapes, dtypes and in_axes: a host identity gives what JAX's does."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from helpers import CALLBAX
from hypothesis import given
from hypothesis import strategies as st

DTYPES = [
    np.dtype(name)
    for name in ("bool", "int8", "uint16", "int32", "float16", "float32", "complex64")
] + [np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e5m2", "int4", "uint2")]

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
dtypes = st.sampled_from(DTYPES)


def array(shape, dtype):
    return (np.arange(int(np.prod(shape))) % 3 % 2).astype(np.float32).astype(dtype).reshape(shape)


def same(left, right):
    left, right = np.asarray(left), np.asarray(right)
    assert (left.shape, left.dtype) == (right.shape, right.dtype)
    assert left.tobytes() == right.tobytes()


@given(shapes, dtypes, st.sampled_from(["C", "F"]), st.sampled_from(["pure", "io", "ordered"]))
def test_any_array_makes_the_round_trip(shape, dtype, order, flavour):
    """Any shape, dtype and layout goes in and comes out unchanged."""
    x = np.asarray(array(shape, dtype), order=order)

    def host(x):
        assert type(x) is np.ndarray
        return np.asarray(x, order=order)

    def f(x):
        if flavour == "pure":
            return CALLBAX.pure_callback(host, x, x)
        return CALLBAX.io_callback(host, x, x, ordered=flavour == "ordered")

    same(jax.jit(f)(x), x)


@st.composite
def batches(draw):
    """Two arrays to map over, with their in_axes; at least one of them is batched."""
    size = draw(st.integers(1, 3))
    sides = []
    for batched in draw(st.sampled_from([(True, True), (True, False), (False, True)])):
        shape = draw(st.lists(st.integers(0, 3), max_size=2))
        axis = None
        if batched:
            axis = draw(st.integers(0, len(shape)))
            shape.insert(axis, size)
        sides.append((array(tuple(shape), draw(dtypes)), axis))
    return sides


def host_pair(x, y):
    return x, y


def callback_pair(method):
    def f(x, y):
        return CALLBAX.pure_callback(host_pair, (x, y), x, y, vmap_method=method)

    return f


@given(batches(), st.sampled_from(["sequential", "sequential_unrolled", "broadcast_all", None]))
def test_identity_under_vmap_with_any_in_axes(sides, method):
    """An identity callback under vmap with random in_axes gives what JAX's vmap does."""
    (x, y), in_axes = zip(*sides, strict=True)
    expected = jax.vmap(lambda x, y: (x, y), in_axes=in_axes, out_axes=0)(x, y)
    actual = jax.vmap(callback_pair(method), in_axes=in_axes)(x, y)
    jax.tree.map(same, actual, expected)


@given(batches(), st.integers(1, 2), st.sampled_from(["sequential", "broadcast_all", None]))
def test_identity_under_nested_vmap_with_any_in_axes(sides, size, method):
    """The same one level deeper: an outer vmap over a random side."""
    (x, y), in_axes = zip(*sides, strict=True)
    wide = jnp.stack([jnp.asarray(x)] * size, axis=-1)

    def nested(f):
        inner = jax.vmap(f, in_axes=in_axes)
        return jax.jit(jax.vmap(inner, in_axes=(-1, None)))

    expected = nested(lambda x, y: (x, y))(wide, y)
    actual = nested(callback_pair(method))(wide, y)
    jax.tree.map(same, actual, expected)


@given(batches())
def test_debug_under_vmap_sees_each_lane_once(sides):
    """A debug callback under vmap with random in_axes sees just the lanes, in order."""
    (x, y), in_axes = zip(*sides, strict=True)
    seen = []

    @jax.jit
    def program(x, y):
        def f(x, y):
            CALLBAX.debug.callback(lambda *pair: seen.append(pair), x, y, ordered=True)

        jax.vmap(f, in_axes=in_axes)(x, y)

    program(x, y)
    CALLBAX.effects_barrier()
    rows, columns = jax.vmap(lambda x, y: (x, y), in_axes=in_axes)(x, y)
    assert len(seen) == len(rows)
    for (left, right), row, column in zip(seen, rows, columns, strict=True):
        same(left, row)
        same(right, column)
