"""Arguments: what a callback may get, and what is refused."""

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EAGER_AND_JIT, both, both_raise

import callbax

FLOATS = jax.ShapeDtypeStruct((2,), np.float32)

PURE_AND_IO = pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])


@EAGER_AND_JIT
@flavours.each(flavours.ALL)
def test_zero_size_arrays(call, transform):
    """Zero-size arrays as input and output."""

    @both
    def outcome(library, record):
        return transform(lambda x: call(library, record, x) * 2)(jnp.zeros((3, 0, 2)))

    assert outcome.value.shape == (3, 0, 2)


@PURE_AND_IO
@EAGER_AND_JIT
def test_zero_size_arrays_mixed_with_others(flavour, transform):
    """Zero-size arrays mixed with others, as input and output."""

    @both
    def outcome(library, record):
        empty = jax.ShapeDtypeStruct((0,), np.int32)
        swap = record.of(lambda x, y, z: (y, x, z))
        callback = getattr(library, flavour)
        return transform(lambda x, y, z: callback(swap, (FLOATS, empty, empty), x, y, z))(
            np.zeros(0, np.int32), np.ones(2, np.float32), np.zeros(0, np.int32)
        )

    assert [x.tolist() for x in outcome.value] == [[1.0, 1.0], [], []]
    assert outcome.calls == [([], [1.0, 1.0], [])]


@PURE_AND_IO
@EAGER_AND_JIT
def test_no_arguments_at_all(flavour, transform):
    """No arguments at all."""

    @both
    def outcome(library, record):
        callback = getattr(library, flavour)
        return transform(lambda: callback(record.of(lambda: np.ones(2, np.float32)), FLOATS))()

    assert outcome.value.tolist() == [1.0, 1.0]
    assert outcome.calls == [()]


@PURE_AND_IO
def test_pytrees_and_keyword_arguments(flavour):
    """pure/io take keyword arguments; arguments are pytrees, None included."""

    @both
    def outcome(library, record):
        def host(tree, *, scale, offset):
            return tree["a"] * scale + tree["b"][0] + offset

        callback = getattr(library, flavour)
        tree = {"a": np.ones(2, np.float32), "b": (np.float32(2), None)}
        return jax.jit(
            lambda tree, s: callback(record.of(host), FLOATS, tree, scale=s, offset=np.float32(1))
        )(tree, np.float32(3))

    assert outcome.value.tolist() == [6.0, 6.0]
    tree = {"a": [1.0, 1.0], "b": (2.0, None)}
    assert outcome.calls == [(tree, {"scale": 3.0, "offset": 1.0})]


@PURE_AND_IO
@pytest.mark.parametrize("place", ["positional", "keyword"])
def test_static_values_are_refused(flavour, place):
    """pure/io take no static values (a string: TypeError naming pure_callback and the argument)."""

    def program(library, record):
        callback = getattr(library, flavour)
        if place == "positional":
            return callback(record, FLOATS, 1.0, "text")
        return callback(record, FLOATS, 1.0, mode="text")

    both_raise(
        program,
        TypeError,
        f"argument to {flavour} as a JAX value. The problematic value is of type <class 'str'> "
        f"and was passed to {flavour} at position 1",
    )


def test_a_static_value_is_named_with_its_callback():
    """An option that is misspelt is an argument, which JAX does not name."""
    for call, name in ((callbax.pure_callback, "pure"), (callbax.io_callback, "io")):
        with pytest.raises(TypeError, match="Error interpreting argument to") as info:
            jax.jit(lambda x, call=call: call(np.sin, x, x, vmap_metod="expand_dims"))(1.0)
        note = "".join(info.value.__notes__)
        assert f"callbax.{name}_callback: vmap_metod of sin cannot be an argument" in note
        assert "functools.partial" in note and "misspelt" in note


@EAGER_AND_JIT
def test_debug_splits_static_leaves_off(transform):
    """debug.* split non-array leaves (strings, dtypes, functions) off as static."""

    @both
    def outcome(library, record):
        def host(text, x, *, dtype, function, tree):
            record.calls.append((text, np.asarray(x).item(), dtype, function, tree[1]))

        @transform
        def f(x):
            library.debug.callback(
                host, "text", x, dtype=np.float32, function=len, tree=[x, "leaf"]
            )

        f(2.0)

    assert outcome.calls == [("text", 2.0, np.float32, len, "leaf")]
