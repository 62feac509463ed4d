"""Keys under jax.debug_key_reuse, and Refs, as arguments of debug callbacks."""

import jax
import jax.numpy as jnp
import pytest
from helpers import CALLBAX, both, both_raise, run

EAGER_OR_JIT = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])


@EAGER_OR_JIT
@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
def test_to_show_a_key_is_not_to_use_it(compiled, ordered):
    def program(library, record):
        def draw(key):
            library.debug.callback(lambda key: record.calls.append(1), key, ordered=ordered)
            return jax.random.normal(key)

        with jax.debug_key_reuse(True):
            return (jax.jit(draw) if compiled else draw)(jax.random.key(0))

    assert both(program).calls == [1]


def test_to_print_a_key_in_a_loop_is_not_to_use_it():
    def program(library, record):
        def step(key, _):
            key, now = jax.random.split(key)
            library.debug.print("{}", now)
            return key, jax.random.normal(now)

        with jax.debug_key_reuse(True):
            return jax.jit(lambda key: jax.lax.scan(step, key, None, length=2)[1])(
                jax.random.key(0)
            )

    outcome = run(CALLBAX, program)
    assert outcome.error is None
    assert len(outcome.printed) == 2


def test_a_key_that_is_used_twice_is_still_found():
    def program(library, record):
        def draw(key):
            library.debug.callback(lambda key: None, key)
            return jax.random.normal(key) + jax.random.normal(key)

        with jax.debug_key_reuse(True):
            jax.jit(draw)(jax.random.key(0))

    both_raise(program, jax.errors.KeyReuseError)


def test_refs_and_their_views_as_arguments():
    """JAX's own refuse some of these combinations; what they take, they show alike."""

    def program(library, record):
        @jax.jit
        def f(x, i):
            ref = jax.new_ref(x)
            library.debug.callback(lambda whole, part: record.seen(whole, part), ref, ref[1:])
            library.debug.callback(lambda view: record.seen(view.ref), ref.at[1:], ordered=True)
            library.debug.callback(lambda view: record.seen(view.ref), ref.at[i], ordered=True)
            ref[0] = 9.0
            library.debug.print("{}", ref)
            return ref[...]

        return f(jnp.arange(3.0), 1)

    outcome = run(CALLBAX, program)
    assert outcome.error is None
    assert outcome.value.tolist() == [9.0, 1.0, 2.0]
    assert outcome.printed == ["[9. 1. 2.]"]
    whole = [0.0, 1.0, 2.0]
    assert sorted(outcome.calls, key=repr) == sorted([(whole, [1.0, 2.0]), whole, whole], key=repr)
