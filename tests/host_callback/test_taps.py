"""Taps that fail, the barrier, what id_print prints, and what is refused."""

import gc
import io
import logging
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EAGER_AND_JIT
from taps import Taps

import callbax
from callbax import host_callback


def fails(x, transforms):
    raise ValueError(f"no {x}")


@EAGER_AND_JIT
def test_a_failing_tap_leaves_the_program_alone(transform):
    taps = Taps()

    def f(x):
        x = taps.tap(x + 1)
        x = host_callback.id_tap(fails, x + 1)
        return taps.tap(x + 1)

    assert transform(f)(0) == 3
    with pytest.raises(host_callback.CallbackException, match="ValueError: no 2") as caught:
        host_callback.barrier_wait()
    cause = caught.value.__cause__
    assert repr(cause) == "ValueError('no 2')"
    assert cause.__traceback__.tb_frame.f_code is fails.__code__
    assert "with arguments int32[]" in cause.__notes__[0]
    assert taps.values() == [1, 3]  # and this barrier raises nothing


def test_the_barrier_tells_of_each_failure():
    f = jax.jit(jax.vmap(lambda x: host_callback.id_tap(fails, x)))
    f(jnp.arange(2))
    f(jnp.arange(2) + 2)
    with pytest.raises(host_callback.CallbackException) as caught:
        host_callback.barrier_wait()
    assert isinstance(caught.value, callbax.CallbackError)
    assert "no [0 1]" in str(caught.value)
    assert "no [2 3]" in str(caught.value)
    assert str(caught.value.__cause__) == "no [0 1]"


def test_every_barrier_raises_what_has_failed():
    host_callback.id_tap(fails, 1)
    with pytest.raises(
        jax.errors.JaxRuntimeError, match="host_callback.id_tap: the callback fails"
    ):
        callbax.effects_barrier()


def test_a_failing_tap_is_logged(caplog):
    host_callback.id_tap(fails, 1)
    with pytest.raises(host_callback.CallbackException):
        host_callback.barrier_wait()
    (record,) = caplog.records
    assert record.getMessage().startswith("callbax.host_callback.id_tap failed in fails (")


def test_an_interrupt_is_not_kept_for_later():
    def interrupts(x, transforms):
        raise SystemExit(3)

    with pytest.raises(jax.errors.JaxRuntimeError, match="SystemExit: 3"):
        jax.block_until_ready(jax.jit(lambda x: host_callback.id_tap(interrupts, x))(1))
    callbax.effects_barrier()


def test_the_barrier_has_a_name_in_the_log(caplog):
    with caplog.at_level(logging.DEBUG, "callbax.host_callback"):
        host_callback.barrier_wait("first")
        host_callback.barrier_wait()
    assert [record.getMessage() for record in caplog.records] == [
        "barrier_wait first: start",
        "barrier_wait first: done",
        "barrier_wait: start",
        "barrier_wait: done",
    ]


LONG = tuple(jnp.arange(12) + 100 * i for i in range(3))


# What JAX's id_print wrote.
@pytest.mark.parametrize(
    ("arg", "options", "lines"),
    [
        (6.0, {}, ["6."]),
        ((6.0, 9.0), {"what": "pair"}, ["what: pair", "( 6. 9. )"]),
        ({"b": 9, "a": [True, None]}, {}, ["{ a=[ True None ] b=9 }"]),
        (((), [], {}), {}, ["( (  ) [  ] {  } )"]),
        (1, {"what": "x", "an": 3}, ["an: 3 what: x", "1"]),
        (np.arange(9), {"threshold": 4}, ["[0 1 2 ... 6 7 8]"]),
        (np.ones((2, 2)), {}, ["[[1. 1.]", " [1. 1.]]"]),
        (
            LONG,
            {},
            [
                "( [ 0  1  2  3  4  5  6  7  8  9 10 11]",
                "  [100 101 102 103 104 105 106 107 108 109 110 111]",
                "  [200 201 202 203 204 205 206 207 208 209 210 211] )",
            ],
        ),
    ],
)
def test_what_is_printed(arg, options, lines, capsys):
    jax.jit(lambda: host_callback.id_print(arg, **options))()
    host_callback.barrier_wait()
    assert capsys.readouterr().out.splitlines() == lines


def test_transforms_are_printed(capsys):
    stream = io.StringIO()

    def f(x):
        return host_callback.id_print((x, x * x), what="x,x^2", output_stream=stream)[1] * x

    jax.vmap(jax.grad(f))(np.array([2.0, 3.0]))
    jax.linear_transpose(lambda x: host_callback.id_print(x, output_stream=stream), 1.0)(2.0)
    host_callback.barrier_wait()
    assert stream.getvalue().splitlines() == [
        "transforms: [('batch', {'batch_dims': (0, 0)})] what: x,x^2",
        "( [2. 3.] [4. 9.] )",
        "transforms: ['transpose']",
        "2.",
    ]
    assert capsys.readouterr().out == ""


def test_equal_prints_are_traced_once():
    @jax.jit
    def f(x):
        host_callback.id_print(x, what="x")
        return host_callback.id_print(x, what="x")

    calls = [e for e in f.trace(1).jaxpr.eqns if e.primitive.name == "id_tap"]
    assert len(calls) == 2
    assert len({hash(e.params["host_call"]) for e in calls}) == 1
    assert calls[0].params == calls[1].params


def test_arguments_are_checked():
    with pytest.raises(
        TypeError, match=r"unexpected keyword arguments: what\. .*functools\.partial"
    ):
        host_callback.id_tap(fails, 1, what="x")
    with pytest.raises(TypeError, match=r"callbax.host_callback.id_tap must be callable"):
        host_callback.id_tap(3, 1)
    with pytest.raises(TypeError, match="arg must be a pytree of arrays, but has 'a' of type str"):
        host_callback.id_tap(fails, {"x": "a"})
    with pytest.raises(TypeError, match="result must be a pytree of arrays, but has 'a'"):
        jax.jit(lambda: host_callback.id_tap(fails, 1, result="a")).lower()
    for index in (-1, "0"):
        with pytest.raises(ValueError, match="device_index must be the number of a device, but is"):
            host_callback.id_tap(fails, 1, device_index=index)


def test_taps_use_jax_and_arrays_around_them():
    weights = jnp.arange(3.0)
    seen = []

    def weighted(x, transforms):
        seen.append(float(jnp.dot(weights, x)))

    jax.jit(lambda x: host_callback.id_tap(weighted, x))(jnp.ones(3))
    host_callback.barrier_wait()
    assert seen == [3.0]


def test_tap_functions_are_freed():
    def one():
        def tap(x, transforms):
            pass

        jax.jit(jax.vmap(lambda x: host_callback.id_tap(tap, x)))(jnp.arange(2))
        host_callback.barrier_wait()
        return weakref.ref(tap)

    references = [one() for _ in range(20)]
    jax.clear_caches()
    gc.collect()
    deadline = time.monotonic() + 20
    while any(reference() for reference in references) and time.monotonic() < deadline:
        time.sleep(0.01)  # XLA may let go of the last program on a thread of its own
    assert [reference() for reference in references] == [None] * 20


def test_the_module_is_there_when_it_is_asked_for():
    assert callbax.host_callback is host_callback
    with pytest.raises(AttributeError, match="module 'callbax' has no attribute 'host_callbacks'"):
        callbax.host_callbacks  # noqa: B018
