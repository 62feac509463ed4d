"""equinox: error_if and its relatives, where they are caught and where not."""

import equinox as eqx
import jax
import jax.numpy as jnp


def _positive(x, message="x must be positive"):
    return eqx.error_if(x, x <= 0, message)


def a_check_that_holds():
    return eqx.filter_jit(lambda x: _positive(x) * 2)(jnp.array(3.0))


def in_filter_jit():
    return eqx.filter_jit(lambda x: _positive(x) * 2)(jnp.array(-3.0))


def in_jax_jit():
    return jax.jit(lambda x: _positive(x) * 2)(jnp.array(-3.0))


def eager():
    return _positive(jnp.array(-3.0))


def caught_and_tried_again():
    program = eqx.filter_jit(lambda x: _positive(x) * 2)
    messages = []
    for _ in range(3):
        try:
            program(jnp.array(-1.0))
        except RuntimeError as error:
            messages.append(f"{type(error).__name__}: {error}".splitlines()[0])
    return messages, program(jnp.array(1.0))


def under_vmap():
    return eqx.filter_jit(jax.vmap(_positive))(jnp.array([1.0, -1.0, 2.0]))


def under_filter_vmap_where_it_holds():
    return eqx.filter_jit(eqx.filter_vmap(_positive))(jnp.array([1.0, 4.0]))


def under_grad():
    return eqx.filter_jit(eqx.filter_grad(lambda x: _positive(x) ** 2))(jnp.array(-2.0))


def under_grad_where_it_holds():
    return eqx.filter_jit(eqx.filter_value_and_grad(lambda x: _positive(x) ** 2))(jnp.array(2.0))


def in_a_scan():
    def step(carry, x):
        return _positive(carry - x, "the sum became negative"), carry

    return eqx.filter_jit(lambda x: jax.lax.scan(step, 3.0, x))(jnp.arange(5.0))


def in_a_scan_that_is_differentiated():
    def loss(start):
        def step(carry, x):
            return _positive(carry * x), carry

        return jax.lax.scan(step, start, jnp.arange(1.0, 5.0))[0]

    return eqx.filter_jit(jax.value_and_grad(loss))(jnp.array(2.0))


def in_a_while_loop():
    def body(x):
        return _positive(x - 1)

    return eqx.filter_jit(lambda x: jax.lax.while_loop(lambda x: x > -5, body, x))(jnp.array(3.0))


def one_of_several_messages():
    def program(x):
        return eqx.branched_error_if(x, x < 0, jnp.array(1), ["the first", "the second"])

    return eqx.filter_jit(program)(jnp.array(-1.0))


def after_another_error():
    first = eqx.filter_jit(lambda x: _positive(x, "an earlier error"))
    try:
        first(jnp.array(-1.0))
    except RuntimeError:
        pass
    return eqx.filter_jit(lambda x: _positive(x, "a later error"))(jnp.array(-1.0))


def with_nan():
    program = eqx.filter_jit(lambda x: eqx.error_if(x, x <= 0, "nan instead"))
    return program(jnp.array(-1.0))


def on_several_devices():
    mesh = jax.make_mesh((4,), ("i",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
    x = jax.device_put(jnp.arange(8.0) + 1, sharding)
    return eqx.filter_jit(lambda x: _positive(x) * 2)(x)


class _Model(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return _positive(self.weight @ x, "the model's output must be positive")


def in_a_module():
    return eqx.filter_jit(_Model(-jnp.ones(3)))(jnp.ones(3))


def no_error_in_the_branch_not_taken():
    def program(x):
        return jax.lax.cond(x > 0, lambda x: x, lambda x: _positive(x), x)

    return eqx.filter_jit(program)(jnp.array(1.0))
