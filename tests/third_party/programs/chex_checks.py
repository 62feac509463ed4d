"""chex: assertions on values inside programs. They are checkify's, and need no callback."""

import chex
import jax
import jax.numpy as jnp


def an_assertion_that_holds():
    @chex.chexify
    @jax.jit
    def program(x):
        chex.assert_tree_all_finite(x)
        return x + 1

    result = program(jnp.array([1.0]))
    program.wait_checks()
    return result


def an_assertion_that_fails():
    def program(x):
        chex.assert_tree_all_finite(x)
        return jnp.log(x)

    return chex.chexify(jax.jit(program), async_check=False)(jnp.array([jnp.nan]))


def beside_a_print():
    def program(x):
        jax.debug.print("x = {}", x)
        chex.assert_trees_all_close(x, jnp.ones(2), custom_message="not close")
        return x

    return chex.chexify(jax.jit(program), async_check=False)(jnp.ones(2))


def a_print_before_an_assertion_that_fails():
    def program(x):
        jax.debug.print("x = {}", x)
        chex.assert_trees_all_close(x, jnp.ones(2), custom_message="not close")
        return x

    return chex.chexify(jax.jit(program), async_check=False)(jnp.zeros(2))
