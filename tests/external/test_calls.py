"""Calling an external function: arguments of every kind, effects, caching, and what it looks like."""

import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax import lax

import callbax as cb
from callbax._host import function
from callbax._runtime.wrapper import Wrapper

x = np.arange(4, dtype=np.float32)


@cb.external(result=cb.like("x"))
def scaled(*, x, factor=2.0, kind="plain", offset=None):
    """Scales x."""
    assert kind in ("plain", "negated")
    value = x * np.float32(factor) + (0 if offset is None else offset)
    return -value if kind == "negated" else value


def test_statics_and_keyword_arguments_reach_the_host_function():
    np.testing.assert_array_equal(scaled(x=x), 2 * x)
    np.testing.assert_array_equal(jax.jit(lambda x: scaled(x=x, kind="negated"))(x), -2 * x)
    actual = jax.jit(lambda x, f: scaled(x=x, factor=f, offset=np.float32(1)))(x, 3.0)
    np.testing.assert_array_equal(actual, 3 * x + 1)


def test_functions_dataclasses_and_nested_statics():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        power: int

    @cb.external(result=cb.like(1))
    def applied(function, tree, settings):
        return {"a": function(tree["a"]) ** settings["inner"].power, "b": tree["b"]}

    tree = {"a": x, "b": np.ones((2, 2), np.float32)}
    call = jax.jit(lambda tree: applied(np.negative, tree, {"inner": Settings(2)}))
    np.testing.assert_array_equal(call(tree)["a"], x**2)


def test_keyword_arguments_named_like_options_are_the_functions_own():
    names = ("sharding", "vmap_method", "callback", "result_shape_dtypes", "ordered")

    @cb.external(result=cb.like(0))
    def odd(a, *, sharding, vmap_method, callback, result_shape_dtypes, ordered):
        assert vmap_method == "mine"
        return a * sharding * callback * result_shape_dtypes * ordered

    two = np.float32(2)
    keywords = {name: two for name in names} | {"vmap_method": "mine"}
    np.testing.assert_array_equal(jax.jit(lambda a: odd(a, **keywords))(x), 16 * x)


def test_arguments_given_by_name_are_positional_arguments():
    @cb.external(result=cb.like(0))
    def difference(first, second):
        return first - second

    np.testing.assert_array_equal(difference(second=x, first=2 * x), x)


def test_defaults_star_arguments_and_no_arguments():
    @cb.external(result=jax.ShapeDtypeStruct((), "float32"))
    def total(*parts, scale=1):
        return np.float32(sum(part.sum() for part in parts) * scale)

    assert total() == 0
    assert jax.jit(total)(x, x) == 12
    assert total(x, scale=np.float32(3)) == 18


def test_functions_without_a_python_signature():
    assert math.hypot.__module__ == "math"
    hypot = cb.external(math.hypot, result=jax.ShapeDtypeStruct((), "float32"))
    assert jax.jit(hypot)(3.0, 4.0) == 5


def test_methods():
    class Model:
        scale = np.float32(3)

        @cb.external(result=cb.like(1))
        def predict(self, a):
            return a * self.scale

    model = Model()
    np.testing.assert_array_equal(jax.jit(model.predict)(x), 3 * x)
    assert isinstance(Model.predict, cb.External)


def test_wrong_arguments_are_refused_by_signature():
    @cb.external(result=cb.like(0))
    def one(a):
        return a

    with pytest.raises(
        TypeError, match=r"one \(.*\) was called with arguments that it does not take"
    ):
        one(x, x)
    with pytest.raises(
        TypeError, match=r"b of .*pair \(.*\) is of type set, which is neither an array"
    ):

        @cb.external(result=cb.like(0))
        def pair(a, b):
            return a

        pair(x, {1, 2})


@pytest.mark.parametrize("bad", [None, 3, "f"])
def test_only_functions_can_be_external(bad):
    if bad is None:
        assert callable(cb.external(result=cb.like(0)))  # the decorator with options
        return
    with pytest.raises(TypeError, match="external must be callable"):
        cb.external(bad, result=cb.like(0))
    with pytest.raises(TypeError, match="is external already"):
        cb.external(scaled, result=cb.like(0))


def test_it_looks_like_the_host_function():
    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == "Scales x."
    assert list(inspect.signature(scaled).parameters) == ["x", "factor", "kind", "offset"]
    assert repr(scaled).startswith("<callbax.external scaled (") and "test_calls.py:" in repr(
        scaled
    )


def test_equal_functions_are_equal():
    first = cb.external(scipy.special.jv, result="broadcast")
    second = cb.external(scipy.special.jv, result="broadcast")
    other = cb.external(scipy.special.jv, result="broadcast", vmap_method="sequential")
    assert first == second and hash(first) == hash(second)
    assert first != other and first != scipy.special.jv


def test_nothing_is_traced_or_compiled_twice():
    traces = []

    @jax.jit
    def program(v, z):
        traces.append(1)
        return cb.external(scipy.special.jv, result="broadcast")(v, z)

    for _ in range(3):
        program(1.0, x)
    assert len(traces) == 1

    def with_static(call, z):
        traces.append(2)
        return call(0.0, z)

    with_static = jax.jit(with_static, static_argnums=0)
    for _ in range(3):
        with_static(cb.external(scipy.special.jv, result="broadcast"), x)
    assert traces.count(2) == 1


def test_transformations_of_a_plain_call():
    square = cb.external(np.square, result=cb.like(0))
    np.testing.assert_array_equal(jax.vmap(jax.vmap(square))(x.reshape(2, 2)), x.reshape(2, 2) ** 2)
    _, scanned = lax.scan(lambda carry, a: (carry, square(a)), None, x)
    np.testing.assert_array_equal(scanned, x**2)
    np.testing.assert_array_equal(lax.cond(True, square, lambda a: a, x), x**2)
    np.testing.assert_array_equal(lax.map(square, x), x**2)
    np.testing.assert_array_equal(jax.checkpoint(square)(x), x**2)


def test_a_signature_batches_as_a_gufunc_does():
    product = cb.external(np.matmul, signature="(n,k),(k,m)->(n,m)")
    a = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
    b = np.arange(40, dtype=np.float32).reshape(5, 4, 2)
    expected = a @ b
    np.testing.assert_array_equal(product(a, b), expected)
    np.testing.assert_array_equal(jax.jit(product)(a, b), expected)
    np.testing.assert_array_equal(jax.vmap(product, (0, None))(a, b), expected)
    np.testing.assert_array_equal(jax.vmap(product, (None, 0), 1)(a[:, 0], b), expected)
    assert product(a[:0], b).shape == (0, 5, 3, 2)
    with pytest.raises(ValueError, match="before their core dimensions, do not broadcast"):
        product(a[:, [0, 0, 0]], b)


def test_effects():
    seen = []

    @cb.external(result=None, effects="ordered")
    def note(text, a):
        seen.append((text, float(a)))

    @jax.jit
    def program(a):
        note("first", a)
        note("second", a + 1)
        return lax.fori_loop(0, 2, lambda i, c: (note("loop", c), c + 1)[1], a + 2)

    program(np.float32(0)).block_until_ready()
    cb.effects_barrier()
    assert seen == [("first", 0), ("second", 1), ("loop", 2), ("loop", 3)]
    with pytest.raises(ValueError, match="Cannot `vmap` ordered IO callback"):
        jax.vmap(lambda a: note("lane", a))(x)

    draw = cb.external(lambda a: a + 1, result=cb.like(0), effects="io")
    np.testing.assert_array_equal(jax.jit(jax.vmap(draw))(x), x + 1)


def test_a_failure_surfaces_with_the_functions_own_exception():
    @cb.external(result=cb.like(1))
    def failing(reason, a):
        raise KeyError(reason)

    with pytest.raises(KeyError, match="lost"), cb.reraise():
        jax.block_until_ready(jax.jit(lambda a: failing("lost", a))(x))


def test_the_guides_bessel_function():
    """With values of SciPy's, to the precision that the dtype has."""
    jv = cb.external(scipy.special.jv, result="broadcast")
    z = np.linspace(0, 20, 50)
    for enabled, tolerance in ((False, 1e-6), (True, 1e-12)):
        with jax.enable_x64(enabled):
            actual = jax.jit(jax.vmap(lambda v: jv(v, jnp.asarray(z))))(jnp.arange(3.0))
            expected = scipy.special.jv(np.arange(3.0)[:, None], z)
            np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0)


def test_messages_name_the_options_of_external():
    noting = cb.external(lambda a: a, result=cb.like(0), effects="ordered")
    with pytest.raises(
        ValueError, match="effects='ordered', so it has no derivative.*stop_gradient"
    ):
        jax.grad(lambda a: noting(a).sum())(x)
    with pytest.raises(ValueError, match="use effects='io', or jax.lax.map"):
        jax.vmap(noting)(x)
    with pytest.raises(TypeError, match=r"result= of the callback .* must be a pytree of objects"):
        cb.external(np.sort, result=lambda a: a.shape)(x)
    with pytest.raises(ValueError, match="result= cannot specify 64-bit types"):
        cb.external(np.sort, result=jax.ShapeDtypeStruct((4,), "float64"))(x)


def test_prng_keys_arrive_as_their_data():
    key = jax.random.key(7)
    f = cb.external(lambda key: key.sum(), result=jax.ShapeDtypeStruct((), np.uint32))
    expected = np.asarray(jax.random.key_data(key)).sum()
    assert f(key) == expected and jax.jit(f)(key) == expected
    assert cb.external(np.array, result=cb.like(0))(key).shape == (2,)
    keys = jax.random.split(key, 3)
    expected = np.asarray(jax.random.key_data(keys)).sum(axis=1, dtype=np.uint32)
    np.testing.assert_array_equal(jax.vmap(f)(keys), expected)


def test_arguments_may_have_any_name():
    f = cb.external(lambda self, mask: self + mask, result=cb.like(0))
    np.testing.assert_array_equal(f(self=x, mask=x), 2 * x)
    np.testing.assert_array_equal(f.call_where(True, self=x, mask=x), 2 * x)


def test_nodes_that_take_arrays_only():
    @jax.tree_util.register_pytree_node_class
    class Strict:
        def __init__(self, array):
            assert hasattr(array, "shape")
            self.array = array

        def tree_flatten(self):
            return (self.array,), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    f = cb.external(lambda node: node, result=cb.like(0), derivative="central")
    np.testing.assert_array_equal(jax.jit(f)(Strict(x)).array, x)
    gradient = jax.grad(lambda node: f(node).array.sum())(Strict(x))
    np.testing.assert_allclose(gradient.array, np.ones(4), rtol=1e-3)


@pytest.mark.parametrize("bad", [np.array(["a"]), np.array([None]), np.zeros(1, "M8[s]")])
def test_arrays_that_jax_does_not_have(bad):
    f = cb.external(lambda label: label, result=cb.like(0))
    with pytest.raises(TypeError, match=r"label of .* of type ndarray with the dtype .*neither"):
        f(bad)


@pytest.mark.parametrize(
    "make_result",
    [lambda: cb.infer, lambda: {"a": x}, lambda: [jax.ShapeDtypeStruct((4,), np.float32)]],
)
def test_equal_results_make_equal_functions(make_result):
    first, second = (cb.external(np.negative, result=make_result()) for _ in range(2))
    assert first == second and hash(first) == hash(second)
    assert first != cb.external(np.negative, result=cb.like(0))
    assert first != cb.external(np.negative, result=[jax.ShapeDtypeStruct((5,), np.float32)])


@pytest.mark.parametrize("arrays", ["numpy", "jax"])
def test_names_hold_from_the_start(arrays):
    """A program of another process finds the function before it has been called here."""
    f = cb.external(lambda x: 2 * x, result=cb.like(0), name="doubling", arrays=arrays)
    assert function.find_named("doubling").function == f.definition.host_function.function
    np.testing.assert_array_equal(jax.jit(f)(x), 2 * x)
    with pytest.raises(ValueError, match="name 'doubling', given to .* is already that of"):
        cb.external(lambda x: 3 * x, result=cb.like(0), name="doubling")


def test_a_name_and_keywords_that_are_options():
    f = cb.external(lambda x, *, ordered=1.0: x * ordered, result=cb.like(0), name="ordering")
    np.testing.assert_array_equal(f(x), x)
    np.testing.assert_array_equal(f(x, ordered=np.float32(3)), 3 * x)


def test_completion_shows_what_users_call():
    names = {name for name in dir(cb.external(np.sin, result=cb.like(0))) if name[0] != "_"}
    assert {"call_where", "def_vmap", "defjvp", "definition", "executor", "function"} <= names
    assert not {name for name in vars(Wrapper) if name[0] != "_"} & names
