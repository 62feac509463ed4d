"""equinox: its callback functions, debugging tools, noinline, progress meters and loops."""

import functools

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np


def filter_pure_callback():
    def host(x, name):
        return {"sine": np.sin(x), "name": name}

    @eqx.filter_jit
    def program(x):
        result = {"sine": jax.ShapeDtypeStruct((3,), jnp.float32), "name": "a name"}
        return eqx.filter_pure_callback(host, x, "a name", result_shape_dtypes=result)

    return program(jnp.arange(3.0))


def filter_pure_callback_that_returns_something_else():
    result = {"sine": jax.ShapeDtypeStruct((3,), jnp.float32), "name": "another name"}
    return eqx.filter_jit(
        lambda x: eqx.filter_pure_callback(
            lambda x: {"sine": np.sin(x), "name": "a name"}, x, result_shape_dtypes=result
        )
    )(jnp.arange(3.0))


def filter_pure_callback_under_vmap():
    def program(x):
        result = jax.ShapeDtypeStruct((), jnp.float32)
        return eqx.filter_pure_callback(
            np.sin, x, result_shape_dtypes=result, vmap_method="sequential"
        )

    return jax.jit(jax.vmap(program))(jnp.arange(4.0))


def filter_pure_callback_that_raises():
    def host(x):
        raise ValueError("the host function failed")

    return eqx.filter_jit(
        lambda x: eqx.filter_pure_callback(
            host, x, result_shape_dtypes=jax.ShapeDtypeStruct((), jnp.float32)
        )
    )(jnp.array(1.0))


def dead_code():
    @jax.jit
    def program(x):
        kept, _ = eqx.debug.store_dce((x**2, x + 1))
        return kept

    value = program(jnp.array(3.0))
    eqx.debug.inspect_dce()
    return value


def a_nan_on_the_way_back():
    def loss(x):
        x = eqx.debug.backward_nan(x, name="x", terminate=False)
        return jnp.where(x > 0, jnp.sqrt(x), 0.0)

    return eqx.filter_jit(jax.grad(loss))(jnp.array(0.0))


def a_nan_on_the_way_back_that_ends_the_program():
    def loss(x):
        return jnp.sqrt(eqx.debug.backward_nan(x)) * 0.0

    return eqx.filter_jit(jax.grad(loss))(jnp.array(0.0))


@eqxi.noinline
def _cubed(x):
    return x**3


def noinline():
    return jax.jit(lambda x: _cubed(x) + _cubed(x + 1))(2.0)


def noinline_under_vmap():
    return jax.jit(jax.vmap(_cubed))(jnp.arange(3.0))


def noinline_under_grad():
    return jax.jit(jax.value_and_grad(_cubed))(2.0)


def noinline_in_a_scan():
    def step(carry, _):
        return _cubed(carry) * 0.1, carry

    return jax.jit(lambda x: jax.lax.scan(step, x, None, length=5))(1.5)


def noinline_of_a_module():
    linear = eqxi.noinline(eqx.nn.Linear(2, 3, key=jax.random.key(0)))
    return eqx.filter_jit(lambda x: linear(x))(jnp.ones(2))


def _sum_of_squares(kind, x):
    def body(carry):
        i, total = carry
        total = eqx.error_if(total + x * i**2, i > 100, "too many steps")
        return i + 1, total

    i, total = (
        eqxi.while_loop(
            lambda carry: carry[0] < 6, body, (0.0, 0.0), kind=kind, max_steps=16, checkpoints=4
        )
        if kind == "checkpointed"
        else eqxi.while_loop(lambda carry: carry[0] < 6, body, (0.0, 0.0), kind=kind, max_steps=16)
    )
    return total


def a_lax_loop():
    return eqx.filter_jit(functools.partial(_sum_of_squares, "lax"))(jnp.array(2.0))


def a_checkpointed_loop_that_is_differentiated():
    loss = functools.partial(_sum_of_squares, "checkpointed")
    return eqx.filter_jit(jax.value_and_grad(loss))(jnp.array(2.0))


def a_bounded_loop_that_is_differentiated():
    loss = functools.partial(_sum_of_squares, "bounded")
    return eqx.filter_jit(jax.value_and_grad(loss))(jnp.array(2.0))


def a_loop_with_too_many_steps():
    def program(x):
        def body(carry):
            return eqx.error_if(carry + 1, carry > 3, "more than three")

        return eqxi.while_loop(lambda carry: carry < x, body, 0, kind="lax")

    return eqx.filter_jit(program)(jnp.array(10))


def a_text_progress_meter():
    return _with_meter(eqxi.TextProgressMeter(minimum_increase=0.2))


def a_tqdm_progress_meter():
    return _with_meter(eqxi.TqdmProgressMeter(refresh_steps=2))


def _with_meter(meter):
    @jax.jit
    def program(x):
        state = meter.init()

        def step(carry, i):
            x, state = carry
            return (jnp.sin(x), meter.step(state, (i + 1) / 10)), None

        (x, state), _ = jax.lax.scan(step, (x, state), jnp.arange(10))
        meter.close(state)
        return x

    return program(jnp.array(1.0))


def prints_of_arrays():
    @jax.jit
    def program(x):
        jax.debug.print("x = {x}, y = {y:.3f}", x=x, y=x.sum(), ordered=True)
        return x + 1

    return program(jnp.arange(4.0))
