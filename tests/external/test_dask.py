"""Lanes over a Dask cluster."""

import os

import dask
import jax
import numpy as np
import pytest
import simulators
from dask.distributed import Client, LocalCluster

import callbax as cb

x = np.arange(8, dtype=np.float32)
# What Dask's own machinery warns of when a worker dies is not the matter here.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def executor():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor()


@pytest.mark.full  # it takes seconds
def test_agrees_with_a_loop(executor):
    f = cb.external(simulators.scaled, result=cb.like(0), executor=executor)
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    loop = np.array([[a + w.sum() + 2 for a in x] for w in weights])
    actual = jax.jit(jax.vmap(jax.vmap(f, (0, None)), (None, 0)))(x, weights)
    np.testing.assert_array_equal(actual, loop)


def test_closures_go_by_value(executor):
    offset = np.float32(3)
    f = cb.external(lambda x: x + offset, result=cb.like(0), executor=executor)
    np.testing.assert_array_equal(jax.vmap(f)(x), x + 3)


def test_equal_lanes_with_effects_run_each(executor, tmp_path):
    log = str(tmp_path / "log")

    def write(x):
        with open(log, "a") as file:
            file.write("x")

    f = cb.external(write, result=None, effects="io", executor=executor)
    for _ in range(2):
        jax.jit(jax.vmap(f))(np.zeros(10, np.float32))
        cb.effects_barrier()
    assert os.path.getsize(log) == 20


def test_a_failing_lane_is_named(executor):
    f = cb.external(simulators.fragile, result=cb.like(0), executor=executor)
    with pytest.raises(
        (jax.errors.JaxRuntimeError, ValueError), match="in lane 5 of a batch of 8 of fragile"
    ):
        jax.vmap(f)(x).block_until_ready()


def test_a_client_is_not_an_executor(executor):
    with pytest.raises(TypeError, match=r"pass client\.get_executor\(\)"):
        cb.external(simulators.square, result=cb.like(0), executor=executor._client)


@pytest.mark.timeout(60)  # it must not wait for the worker for ever
def test_a_worker_that_is_killed(executor):
    f = cb.external(simulators.dies_at_three, result=cb.like(0), executor=executor)
    program = jax.vmap(f)
    np.testing.assert_array_equal(program(x + 10), x + 10)
    # JAX's fast path raises the one for the other; other lanes may have been with that worker too.
    failure = (jax.errors.JaxRuntimeError, ValueError)
    with pytest.raises(failure, match=r"lane \d of a batch of 8 of dies_at_three .*KilledWorker"):
        program(x).block_until_ready()
    np.testing.assert_array_equal(program(x + 10), x + 10)  # Dask starts another worker
