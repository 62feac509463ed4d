"""Callables and arguments of unusual kinds."""

import dataclasses
import functools
import logging
import unittest.mock
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ad_checkpoint
from jax.experimental import sparse

import callbax as cb

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


@pytest.fixture(autouse=True)
def quiet_log(caplog):
    caplog.set_level(logging.CRITICAL + 1, "callbax")


def call_each_way(function, x=1.0):
    """The results of `function` as each flavour of callback, jitted."""
    results = [
        jax.jit(lambda x: cb.pure_callback(function, SCALAR, x))(x),
        jax.jit(lambda x: cb.io_callback(function, SCALAR, x))(x),
    ]
    jax.jit(lambda x: cb.debug.callback(function, x))(x)
    cb.debug.callback(function, x)
    cb.effects_barrier()
    return [float(result) for result in results]


def test_a_mock_that_fails():
    mock = unittest.mock.Mock(side_effect=ValueError("boom"))
    for call in (
        lambda x: cb.debug.callback(mock, x),
        lambda x: cb.pure_callback(mock, SCALAR, x),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="boom"):
            jax.block_until_ready(jax.jit(call)(1.0))


def test_a_function_that_is_its_own_func():
    def function(x):
        return x

    function.func = function
    assert call_each_way(function) == [1, 1]


class WithoutManners:
    def __getattr__(self, name):
        raise RuntimeError(f"do not ask for {name}")

    def __repr__(self):
        raise RuntimeError("do not print")

    def __hash__(self):
        raise RuntimeError("do not hash")

    def __eq__(self, other):
        raise RuntimeError("do not compare")

    def __call__(self, x):
        return np.float32(x)


def test_an_object_whose_every_special_method_raises():
    function = WithoutManners()
    assert call_each_way(function) == [1, 1]
    assert "WithoutManners" in str(
        jax.make_jaxpr(lambda x: cb.pure_callback(function, SCALAR, x))(1.0)
    )


def test_closures_over_objects_that_must_not_be_touched():
    class Target:
        pass

    dead = weakref.proxy(Target())
    rude = WithoutManners()

    def function(x):
        return (x, dead, rude)[0]

    assert call_each_way(function) == [1, 1]


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(np.add, np.float32(1)),
        np.float32(1).__add__,
        np.vectorize(lambda x: np.float32(x + 1), otypes=[np.float32]),
        functools.wraps(np.sin)(lambda x: x + 1),
    ],
    ids=["partial", "method-wrapper", "vectorize", "wraps"],
)
def test_callables_of_many_kinds(function):
    assert call_each_way(function) == [2, 2]


@dataclasses.dataclass(frozen=True)
class Logger:
    name: str
    seen: list = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, x):
        self.seen.append(float(x))
        return x


@pytest.mark.parametrize(
    "call",
    [
        lambda f, x: cb.io_callback(f, SCALAR, x),
        lambda f, x: cb.debug.callback(f, x),
        lambda f, x: cb.pure_callback(f, SCALAR, x),
    ],
    ids=["io", "debug", "pure"],
)
def test_equal_but_distinct_callables_are_told_apart(call):
    one, other = Logger("loss"), Logger("loss")
    assert one == other
    first, second = (jax.jit(lambda x, f=f: call(f, x)) for f in (one, other))
    jax.block_until_ready((first(1.0), second(2.0)))
    cb.effects_barrier()
    assert (one.seen, other.seen) == ([1.0], [2.0])


@dataclasses.dataclass(frozen=True)
class Layer:
    """Hashable, but two of them cannot be compared: NumPy does not say whether arrays are equal."""

    name: str
    weights: np.ndarray = dataclasses.field(hash=False)

    def __call__(self, x):
        return np.float32(self.weights.sum() * x)


class Elementwise(Layer):
    """What says of each weight whether it is equal."""

    def __eq__(self, other):
        return self.weights == other.weights

    __hash__ = Layer.__hash__


@pytest.mark.parametrize("kind", [Layer, Elementwise])
@pytest.mark.parametrize(
    "call",
    [
        lambda f, x: cb.pure_callback(f, SCALAR, x),
        lambda f, x: cb.io_callback(f, SCALAR, x),
        lambda f, x: cb.external(f, result=SCALAR)(x),
    ],
    ids=["pure", "io", "external"],
)
def test_callables_that_cannot_be_compared_are_told_apart(call, kind):
    layers = [kind("dense", np.full(3, value)) for value in (1.0, 2.0, 3.0)]
    assert [float(call(layer, 1.0)) for layer in layers] == [3, 6, 9]
    assert jax.jit(lambda x: sum(call(layer, x) for layer in layers))(1.0) == 18


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
def test_what_cannot_be_called(flavour):
    with pytest.raises(TypeError, match=f"callbax.{flavour} must be callable.*NoneType"):
        getattr(cb, flavour)(None, SCALAR, 1.0)


def test_trees_of_users_classes_get_only_arrays_as_leaves():
    matrix = sparse.BCOO.fromdense(jnp.eye(3))
    total = jax.jit(lambda m: cb.pure_callback(lambda m: np.asarray(m.data).sum(), SCALAR, m))
    assert total(matrix) == 3

    @jax.tree_util.register_pytree_node_class
    class Strict:
        def __init__(self, array):
            self.shape = array.shape
            self.array = array

        def __eq__(self, other):
            raise RuntimeError("do not compare")

        def tree_flatten(self):
            return (self.array,), None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            return cls(*leaves)

    assert (
        jax.jit(lambda x: cb.pure_callback(lambda s: s.array.sum(), SCALAR, Strict(x)))(jnp.ones(4))
        == 4
    )


@pytest.mark.parametrize("method", ["expand_dims", "broadcast_all", "legacy_vectorized", None])
def test_vmap_with_python_scalars(method):
    function = jax.vmap(
        lambda x: cb.pure_callback(lambda x, y: x * y, SCALAR, x, 2.0, vmap_method=method)
    )
    assert function(jnp.arange(3.0)).tolist() == [0, 2, 4]
    assert jax.jit(function)(jnp.arange(3.0)).tolist() == [0, 2, 4]


def test_integers_of_another_c_type():
    with jax.enable_x64(True):
        for kind, dtype in ((np.longlong, np.int64), (np.ulonglong, np.uint64)):
            spec = jax.ShapeDtypeStruct((2,), dtype)
            result = jax.jit(
                lambda k=kind, s=spec: cb.pure_callback(lambda: np.array([1, 2], k), s)
            )()
            assert result.tolist() == [1, 2]


def test_an_exception_survives_a_logging_handler_that_raises(caplog, capsys):
    caplog.set_level(logging.ERROR, "callbax")

    class Broken(logging.Handler):
        def emit(self, record):
            raise OSError("disk full")

    handler = Broken()
    logger = logging.getLogger("callbax")
    logger.addHandler(handler)
    original = KeyError("mine")

    def function(x):
        raise original

    try:
        with pytest.raises(jax.errors.JaxRuntimeError) as info:
            cb.pure_callback(function, SCALAR, 1.0).block_until_ready()
    finally:
        logger.removeHandler(handler)
    assert cb.original_exception(info.value) is original
    assert "disk full" in capsys.readouterr().err


def test_an_exception_that_overrides_with_traceback():
    class Odd(Exception):
        def with_traceback(self, trace):
            raise RuntimeError("no")

    def function(x):
        raise Odd("mine")

    with pytest.raises(jax.errors.JaxRuntimeError) as info:
        cb.pure_callback(function, SCALAR, 1.0).block_until_ready()
    assert isinstance(cb.original_exception(info.value), Odd)


def test_arguments_may_have_any_name(capsys):
    """`self` and the like are names of the user's arguments as any other."""
    names = ["self", "function", "flavour", "callback_name", "params"]
    values = {name: jnp.float32(i) for i, name in enumerate(names)}
    text = " ".join(f"{{{name}}}" for name in names)

    def total(**values):
        return np.float32(sum(values.values()))

    seen = []
    for run in (lambda f: f(**values), lambda f: jax.jit(f)(**values)):
        run(lambda **values: cb.debug.print(text, **values))
        run(
            lambda **values: cb.debug.callback(
                lambda **values: seen.append(total(**values)), **values
            )
        )
        for call in (cb.pure_callback, cb.io_callback):
            assert run(lambda call=call, **values: call(total, SCALAR, **values)) == 10
        assert run(cb.external(total, result=SCALAR)) == 10
        with cb.installed():
            run(lambda **values: jax.debug.print(text, **values))
    cb.effects_barrier()
    assert seen == [10, 10]
    assert capsys.readouterr().out == "0.0 1.0 2.0 3.0 4.0\n" * 4


@pytest.mark.parametrize(
    "call",
    [
        lambda x: cb.pure_callback(np.sin, SCALAR, x),
        cb.external(np.sin, result="broadcast"),
        cb.ufunc(np.sin),
    ],
    ids=["pure", "external", "ufunc"],
)
def test_an_operation_is_at_the_line_that_called_callbax(call, capsys):
    """In what JAX says about programs, and in profiles."""

    def function(x):
        return x * call(jax.lax.stop_gradient(x))

    ad_checkpoint.print_saved_residuals(function, 1.0)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " from " in line)
    assert __file__ in line
