"""Many threads, many programs, at once."""

import concurrent.futures
import threading

import jax
import jax.numpy as jnp
import numpy as np

import callbax as cb

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


def test_one_program_from_many_threads():
    program = jax.jit(lambda x: cb.pure_callback(lambda a: a * 2, x, x))

    def work(i):
        x = np.full((50,), i, np.float32)
        return all((np.asarray(program(x)) == 2 * i).all() for _ in range(100))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


def test_many_programs_from_many_threads():
    def work(i):
        def callback(a, b):
            return a + i, b.sum()

        program = jax.jit(lambda a, b: cb.pure_callback(callback, (a, SCALAR), a, (b @ b)))
        a, b = jnp.full((20,), 1.0), jnp.ones((60, 60))
        for _ in range(20):
            first, second = program(a, b)
            assert (np.asarray(first) == 1 + i).all()
            assert second == 60**3
        return i

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(work, range(12))) == list(range(12))


def test_effects_and_failures_from_many_threads(caplog):
    counts = [0] * 8
    lock = threading.Lock()

    def work(i):
        def callback(x):
            with lock:
                counts[i] += 1
            if counts[i] % 5 == 0:
                raise ValueError(f"thread {i}")
            return x

        program = jax.jit(lambda x: cb.io_callback(callback, SCALAR, x))
        failures = 0
        for k in range(25):
            try:
                assert program(np.float32(k)) == k
            except (jax.errors.JaxRuntimeError, ValueError) as error:  # from Python, from C++
                assert str(cb.original_exception(error)) == f"thread {i}"
                failures += 1
        return failures

    caplog.set_level(100, "callbax")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [5] * 8
    assert counts == [25] * 8


def test_a_callback_that_waits_for_another_threads_program():
    inner = jax.jit(lambda x: cb.pure_callback(lambda a: a + 1, SCALAR, x))

    def callback(x):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return np.asarray(pool.submit(inner, x).result())

    outer = jax.jit(lambda a: cb.pure_callback(callback, SCALAR, (a @ a).sum()))
    assert outer(jnp.ones((10, 10))) == 1001
