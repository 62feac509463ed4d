"""Functions that work on the GPU's memory, on XLA's stream, beside XLA's own product."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from common import best_seconds, check, figure

import callbax as cb

SIZE = 512
STRUCT = jax.ShapeDtypeStruct((SIZE, SIZE), np.float32)
GPU = jax.devices()[0]


def product(a, b):
    return a @ b


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-2, atol=1e-2)


a = jax.random.normal(jax.random.key(0), (SIZE, SIZE))
x = jnp.arange(6.0, dtype=np.float32).reshape(2, 3)
own = jax.jit(lambda a: jnp.dot(a, a, precision="highest") * 2)
installed = {name for name in ("torch", "cupy") if importlib.util.find_spec(name)}
for arrays in ("torch", "cupy"):
    if arrays not in installed:
        figure(f"{arrays}", "not installed")
        continue
    with check(f"a product by {arrays}"):
        callee = cb.external(product, result=STRUCT, arrays=arrays, device=True)
        program = jax.jit(lambda a, callee=callee: callee(a, a) * 2)
        same(program(a), own(a))
        taken = best_seconds(program, a, repetitions=50) - best_seconds(own, a, repetitions=50)
        figure(f"above XLA's own product, {arrays}, us", taken * 1e6)
    with check(f"a result in place by {arrays}"):

        def twice(a, out):
            out[:] = a * 2

        in_place = cb.external(twice, result=cb.like(0), arrays=arrays, device=True, out=True)
        program = jax.jit(lambda a, f=in_place: f(a + 1) + 1)
        same(program(a), (a + 1) * 2 + 1)
        figure(
            f"a jitted call, {arrays}, in place, us", best_seconds(program, x, repetitions=50) * 1e6
        )
    with check(f"a thousand calls in a loop by {arrays}"):
        grow = cb.external(lambda a: a + 1, result=cb.like(0), arrays=arrays, device=True)
        looped = jax.jit(lambda a, f=grow: jax.lax.fori_loop(0, 1000, lambda _, a: f(a), a))
        same(looped(x), x + 1000)
        figure(f"a step of a loop, {arrays}, us", best_seconds(looped, x) * 1e3)
    with check(f"lanes by {arrays}"):
        for method in ("sequential", "expand_dims"):
            f = cb.external(
                lambda a: a * a, result=cb.like(0), arrays=arrays, device=True, vmap_method=method
            )
            same(jax.jit(jax.vmap(f))(x), x * x)
    with check(f"a kept array of {arrays} is an error"):
        kept = []

        def keeping(a, kept=kept):
            kept.append(a)
            return a + 1

        f = cb.external(keeping, result=cb.like(0), arrays=arrays, device=True)
        try:
            jax.block_until_ready(jax.jit(f)(x))
        except Exception as error:  # noqa: BLE001 - which one it is, is looked at
            assert isinstance(cb.original_exception(error), cb.CallbackViewError), error
        else:
            raise AssertionError("no error")
    with check(f"trees and host values by {arrays}"):
        f = cb.external(
            lambda tree: {"sum": tree["a"] + tree["b"], "one": np.float32(1)},
            result=lambda tree: {"sum": tree["a"], "one": jax.ShapeDtypeStruct((), "f")},
            arrays=arrays,
            device=True,
        )
        found = jax.jit(f)({"a": x, "b": x})
        same(found["sum"], 2 * x)
        same(found["one"], 1)

if "torch" in installed:
    import torch

    with check("tensors are on the GPU, on XLA's stream, and not copied"):
        seen = []

        def look(a, out):
            seen.append((str(a.device), a.data_ptr(), torch.cuda.current_stream().cuda_stream))
            out.copy_(a)

        f = cb.external(look, result=cb.like(0), arrays="torch", device=True, out=True)
        jax.block_until_ready(jax.jit(f)(a))
        (device, pointer, stream) = seen[0]
        assert device == f"cuda:{GPU.local_hardware_id or 0}" and stream not in (0, 1, 2), seen
        assert pointer == a.unsafe_buffer_pointer(), (pointer, a.unsafe_buffer_pointer())
    with check("host tensors without device=True"):
        f = cb.external(lambda a: a * 3, result=cb.like(0), arrays="torch")
        same(jax.jit(f)(x), 3 * x)
    for dtype in ("float16", "bfloat16", "float8_e4m3fn", "int8", "uint32", "bool", "complex64"):
        with check(f"tensors of {dtype}"):
            f = cb.external(lambda a: a.clone(), result=cb.like(0), arrays="torch", device=True)
            given = x.astype(dtype)
            assert (jax.jit(f)(given) == given).all()
    with check("derivatives by PyTorch"):

        def layer(w, x):
            return torch.tanh(w @ x)

        f = cb.external(
            layer, signature="(n,k),(k)->(n)", arrays="torch", device=True, derivative="torch"
        )
        w, v = x, jnp.float32([0.1, -0.2, 0.3])
        with jax.default_matmul_precision("highest"):
            gradients = [
                jax.jit(jax.grad(lambda w, v, g=g: (g(w, v) ** 2).sum(), (0, 1)))(w, v)
                for g in (f, lambda w, v: jnp.tanh(w @ v))
            ]
            jax.tree.map(same, *gradients)
            lanes = [
                jax.jit(jax.vmap(jax.grad(lambda v, g=g: g(w, v).sum())))(jnp.stack([v, 2 * v]))
                for g in (f, lambda w, v: jnp.tanh(w @ v))
            ]
            same(*lanes)
    with check("another stream waits, and is waited for (DLPack)"):
        side = torch.cuda.Stream()

        def on_side(a):
            with torch.cuda.stream(side):
                tensor = torch.from_dlpack(a)
                for _ in range(50):
                    tensor = tensor @ tensor / 30
            return tensor

        f = cb.external(on_side, result=STRUCT, arrays="dlpack", device=True)

        def truth(a):
            for _ in range(50):
                a = jnp.dot(a, a, precision="highest") / 30
            return a

        program = jax.jit(lambda a: f(a + 0) + 0)
        near = jnp.eye(SIZE) * 30
        same(program(near), jax.jit(truth)(near))
    with check("the default stream (DLPack)"):
        f = cb.external(
            lambda a: torch.from_dlpack(a) * 2, result=STRUCT, arrays="dlpack", device=True
        )
        same(jax.jit(lambda a: f(a + 1) + 1)(a), (a + 1) * 2 + 1)

if "cupy" in installed:
    import cupy

    with check("CUDA's array interface"):

        def scale(a, out):
            with cupy.cuda.ExternalStream(a.stream):
                cupy.multiply(cupy.asarray(a), 2, out=cupy.asarray(out))

        f = cb.external(
            scale, result=cb.like(0), arrays="cuda_array_interface", device=True, out=True
        )
        same(jax.jit(lambda a: f(a + 1) + 1)(a), (a + 1) * 2 + 1)
