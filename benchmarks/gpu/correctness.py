"""Values, types, order, errors, threads, memory that is used again, export."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
from common import check
from jax import export

import callbax as cb

X = jnp.arange(8.0)
HOST_X = np.arange(8, dtype=np.float32)
DTYPES = ("bool", "int8", "int32", "float16", "bfloat16", "float32", "complex64", "int4", "uint2")
DTYPES += ("float8_e4m3fn",)


def add_one(v):
    return v + 1


def times(n, x):
    return jax.lax.fori_loop(0, n, lambda _, c: cb.pure_callback(add_one, c, c), x)


for dtype in DTYPES:
    with check(f"arrays of {dtype}"):
        v = jnp.array([1, 0, 1, 0, 1], dtype)
        assert (jax.jit(lambda v: cb.pure_callback(lambda a: a, v, v))(v) == v).all()
with check("arrays without elements"):
    empty = jax.ShapeDtypeStruct((0,), X.dtype)
    assert jax.jit(lambda x: cb.pure_callback(lambda a: a[:0], empty, x))(X).shape == (0,)
with check("a scan"):
    step = lambda c, _: (cb.pure_callback(add_one, c, c), None)  # noqa: E731
    assert jax.jit(lambda x: jax.lax.scan(step, x, length=50)[0])(X)[0] == 50
with check("lanes"):
    lanes = jax.jit(jax.vmap(lambda s: cb.pure_callback(np.sin, s, s)))(X)
    np.testing.assert_array_equal(lanes, np.sin(HOST_X))
with check("the order of effects"):
    seen = []

    def twenty(x):
        for i in range(20):
            cb.io_callback(lambda _, i=i: seen.append(i), None, x, ordered=True)
        return x

    jax.jit(twenty)(X)
    cb.effects_barrier()
    assert seen == list(range(20))
with check("an argument that is kept"):
    kept = []
    jax.jit(lambda x: cb.io_callback(kept.append, None, x))(X)
    cb.effects_barrier()
    jax.block_until_ready(times(20, jnp.ones(8)))
    np.testing.assert_array_equal(kept[0], HOST_X)
with check("a view, and a result in place"):

    @cb.external(result=X, zero_copy=True, out=True)
    def double(x, *, out):
        np.multiply(x, 2, out=out)

    assert (jax.jit(double)(X) == 2 * X).all()
with check("a derivative"):
    sine = cb.external(np.sin, result=lambda x: x, derivative="central")
    gradient = jax.jit(jax.grad(lambda x: sine(x).sum()))(X)
    np.testing.assert_allclose(gradient, np.cos(HOST_X), atol=1e-2)


def fail(_):
    raise KeyError("k")


FAILING = {
    "a pure call": lambda x: cb.pure_callback(fail, x, x),
    "a call with an effect": lambda x: cb.io_callback(fail, x, x),
    "an effect alone": lambda x: cb.io_callback(fail, None, x),
    "an ordered effect": lambda x: cb.io_callback(fail, None, x, ordered=True),
    "a debug callback": lambda x: cb.debug.callback(fail, x),
    "a scan": lambda x: jax.lax.scan(
        lambda c, _: (cb.pure_callback(fail, c, c), None), x, length=3
    )[0],
}
for name, failing in FAILING.items():
    with check(f"the error of {name}"):
        try:
            with cb.reraise():
                jax.block_until_ready(jax.jit(failing)(X))
                cb.effects_barrier()
        except KeyError as error:
            assert error.args == ("k",)
        else:
            raise AssertionError("nothing was raised")
with check("a call after errors"):
    cb.effects_barrier()
    assert jax.jit(lambda x: cb.pure_callback(add_one, x, x))(X)[0] == 1
with check("64 MiB"):
    big = jnp.arange(1 << 24, dtype=jnp.float32)
    assert bool((jax.jit(lambda x: cb.pure_callback(add_one, x, x))(big) == big + 1).all())
with check("200 times 1 MiB, in blocks that are used again"):
    assert (jax.jit(lambda x: times(200, x))(jnp.zeros(1 << 18)) == 200).all()
with check("eight threads"):
    results = []

    def work():
        results.append(float(jax.jit(lambda x: times(100, x))(jnp.zeros(3))[0]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [100] * 8
with check("an exported program"):
    program = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))
    exported = export.export(program, platforms=("cpu", "cuda"), disabled_checks=cb.EXPORT_CHECKS)(
        X
    )
    loaded = export.deserialize(exported.serialize())
    np.testing.assert_array_equal(loaded.call(X), np.sin(HOST_X))
with check("a ufunc"):
    np.testing.assert_allclose(jax.jit(cb.ufunc(np.sin))(X), np.sin(HOST_X), rtol=1e-6)
with check("scipy.special"):
    np.testing.assert_allclose(jax.jit(cb.scipy.special.erf)(X)[1], 0.8427008, rtol=1e-6)
