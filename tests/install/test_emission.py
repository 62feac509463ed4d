"""Calls of Python from lowering rules of libraries' own: JAX's helper when installed, and callbax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices, error_of, finish
from jax.experimental import checkify, sparse
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

import callbax
from callbax import _jax

PAIR = jnp.float32([1, 2])
TARGETS = ("xla_ffi_python_cpu_callback", "@callbax_call")


def primitive(rule, effect=None):
    """A primitive with one operand and one result like it, which is lowered by `rule(ctx, x)`."""
    new = Primitive("library")
    new.def_effectful_abstract_eval(lambda x: (x, set() if effect is None else {effect}))
    mlir.register_lowering(new, rule)
    batching.primitive_batchers[new] = lambda args, dims: (new.bind(*args), dims[0])
    return new.bind


def emitted(function, ctx, x, *, token=None, **options):
    """As libraries do it: looked up when it is called."""
    results, token, kept = mlir.emit_python_callback(
        ctx, function, token, [x], ctx.avals_in, ctx.avals_out, has_side_effect=True, **options
    )
    ctx.module_context.add_keepalive(kept)
    return results, token


@pytest.mark.parametrize("arguments", [None, "numpy", "jax"])
def test_emit_python_callback_means_the_same(arguments):
    seen = []

    def double(x):
        seen.append(type(x))
        return (2 * x,)

    program = primitive(lambda ctx, x: emitted(double, ctx, x)[0])
    if arguments is not None:
        callbax.install(arguments)
    try:
        text = jax.jit(program).lower(PAIR).as_text()
        assert TARGETS[arguments is not None] in text and TARGETS[arguments is None] not in text
        np.testing.assert_array_equal(finish(jax.jit(program), PAIR), [2, 4])
        assert seen == [np.ndarray]
    finally:
        callbax.uninstall()


@pytest.mark.parametrize("is_installed", [False, True])
def test_emitted_calls_keep_their_order(is_installed):
    seen = []
    effect = _jax.ORDERED_IO_EFFECT

    def rule(ctx, x):
        results, token = emitted(
            lambda x: (seen.append(float(x)), x)[1:], ctx, x, token=ctx.tokens_in.get(effect)
        )
        ctx.set_tokens_out(ctx.tokens_in.update_tokens(mlir.TokenSet({effect: token})))
        return results

    bind = primitive(rule, effect)

    def program(x):
        for step in range(20):
            bind(x + step)
        return x

    with callbax.installed() if is_installed else _nothing():
        finish(jax.jit(program), jnp.float32(0))
    assert seen == list(range(20))


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_on_several_devices_emitted_calls_stay_jaxs():
    mesh = jax.make_mesh((2,), ("i",), devices=devices(2))
    x = jax.device_put(PAIR, NamedSharding(mesh, PartitionSpec("i")))
    program = primitive(lambda ctx, x: emitted(lambda x: (x + 1,), ctx, x)[0])
    with callbax.installed():
        assert TARGETS[0] in jax.jit(program).lower(x).as_text()


@pytest.mark.parametrize("is_installed", [False, True])
def test_jaxs_own_users_of_it(is_installed, caplog):
    """checkify's run-time errors, and the sparse solver."""
    with callbax.installed() if is_installed else _nothing():
        matrix = sparse.CSR.fromdense(jnp.float32([[2, 0], [0, 4]]))
        solve = jax.jit(
            lambda b: sparse.linalg.spsolve(matrix.data, matrix.indices, matrix.indptr, b)
        )
        np.testing.assert_array_equal(solve(jnp.float32([2, 4])), [1, 1])
        assert TARGETS[is_installed] in solve.lower(PAIR).as_text()

        def check(x):
            checkify.check(x > 0, "not positive")
            return x

        jax.config.update("jax_experimental_unsafe_xla_runtime_errors", True)
        try:
            with pytest.raises(jax.errors.JaxRuntimeError, match="not positive"):
                finish(jax.jit(check), jnp.float32(-1))
        finally:
            jax.config.update("jax_experimental_unsafe_xla_runtime_errors", False)
    assert not caplog.records  # JAX logs nothing here


def cube(x):
    return x**3


@pytest.mark.parametrize("effects", ["none", "io"])
def test_lower_callback(effects):
    program = primitive(lambda ctx, x: callbax.lower_callback(ctx, cube, x, effects=effects))
    np.testing.assert_array_equal(finish(jax.jit(program), PAIR), [1, 8])
    np.testing.assert_array_equal(finish(jax.jit(jax.vmap(program)), PAIR), [1, 8])
    text = jax.jit(program).lower(PAIR).as_text()
    assert "@callbax_call" in text and "test_emission:cube" in text
    assert ("has_side_effect = true" in text) == (effects == "io")


def test_lower_callback_without_use_and_in_order():
    seen = []

    def run(effects, effect, steps=20):
        bind = primitive(
            lambda ctx, x: callbax.lower_callback(
                ctx, lambda x: (seen.append(float(x)), x)[1], x, effects=effects
            ),
            effect,
        )

        def program(x):
            for step in range(steps):
                bind(x + step)
            return x

        finish(jax.jit(program), jnp.float32(0))

    run("ordered", _jax.ORDERED_DEBUG_EFFECT)
    assert seen == list(range(20))
    seen.clear()
    run("none", None)
    assert seen == []


def test_lower_callback_says_what_is_wrong():
    def lowered(call):
        return lambda: jax.jit(primitive(call)).lower(PAIR)

    for call, error, text in (
        (lambda ctx, x: callbax.lower_callback(ctx, 3, x), TypeError, "must be callable"),
        (
            lambda ctx, x: callbax.lower_callback(ctx, cube, x, effects="some"),
            ValueError,
            "effects must be 'none', 'io' or 'ordered', but is 'some'",
        ),
        (
            lambda ctx, x: callbax.lower_callback(ctx, cube, x, effects="ordered"),
            ValueError,
            "library has 0",
        ),
    ):
        with pytest.raises(error, match=text):
            lowered(call)()

    def broken(x):
        raise KeyError("lost")

    program = primitive(lambda ctx, x: callbax.lower_callback(ctx, broken, x))
    assert isinstance(error_of(jax.jit(program), PAIR), KeyError)
    with pytest.raises(
        jax.errors.JaxRuntimeError, match=r"callbax.lower_callback: the callback .*broken"
    ):
        finish(jax.jit(program), PAIR)
    short = primitive(lambda ctx, x: callbax.lower_callback(ctx, lambda x: x[:1], x))
    assert "Incorrect output shape" in str(error_of(jax.jit(short), PAIR))
