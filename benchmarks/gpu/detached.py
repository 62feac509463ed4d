"""Effects that nobody waits for (CALLBAX_DETACHED=1): order, errors, and the cost of a call."""

import os

os.environ["CALLBAX_DETACHED"] = "1"  # read when callbax is imported

import time

import jax
import jax.numpy as jnp
import numpy as np
from common import check, figure

import callbax as cb

X = jnp.arange(8.0)
CALLS = 200


def dispatch_seconds(function, *arguments):
    """The least time until a call has returned, whatever it has started; its end is waited for after."""
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        result = function(*arguments)
        taken.append(time.perf_counter() - start)
        jax.block_until_ready(result)
        cb.effects_barrier()
    return min(taken)


with check("the order of effects"):
    seen = []

    def append_each(x):
        for i in range(20):
            cb.io_callback(lambda v, i=i: seen.append((i, float(v[3]))), None, x, ordered=True)
        return x + 1

    program = jax.jit(append_each)
    for _ in range(5):
        program(X)
    cb.effects_barrier()
    assert seen == [(i, 3.0) for i in range(20)] * 5
with check("values are those of the step"):
    values = []

    def step(c, _):
        cb.debug.callback(lambda v: values.append(float(v[0])), c)
        return c + 1, None

    jax.jit(lambda x: jax.lax.scan(step, x, length=100)[0])(X)
    cb.effects_barrier()
    np.testing.assert_array_equal(values, np.arange(100.0))
with check("an error comes from the barrier"):

    def fail(_):
        raise KeyError("k")

    jax.jit(lambda x: cb.io_callback(fail, None, x))(X)
    try:
        cb.effects_barrier()
    except Exception as error:  # noqa: BLE001 - JAX's type of it is not the point
        assert isinstance(cb.original_exception(error), KeyError)
    else:
        raise AssertionError("nothing was raised")
    cb.effects_barrier()
plain = jax.jit(lambda x: x + 1)
effectful = jax.jit(lambda x: (cb.debug.callback(lambda v: None, x), x + 1)[1])
figure("dispatch of a jitted function", dispatch_seconds(plain, X) * 1e6)
figure("the same with a debug callback", dispatch_seconds(effectful, X) * 1e6)
