"""64 lanes of a slow simulator, over a process pool and over a Dask cluster.

    pip install '.[examples]' && python examples/simulator_lanes.py

An epidemic in a population of 100 000, person by person (the stochastic SIR model, simulated
exactly by Gillespie's method, 1977): how many does it reach? The simulator is plain Python and holds
the GIL, so only processes can run several at once. The program around it is JAX: one `vmap` over
reproduction numbers, one over seeds, under `jit`. Where the lanes run is a matter of one line: the
`executor` of the external function, which can be replaced without compiling again.

The result is checked against the final-size equation of Kermack and McKendrick (1927),
z = 1 - exp(-R z).
"""

import multiprocessing
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

import callbax as cb

POPULATION, FIRST_CASES = 100_000, 1_000
WORKERS = os.cpu_count() or 1


# A factory works as well: `executor=lambda: ...` is called at first use, and again if it breaks.
@cb.external(result=jax.ShapeDtypeStruct((), np.float32), executor=ThreadPoolExecutor(1))
def outbreak(reproduction, seed):
    """The share of the population that is reached. At the top level, as workers import it."""
    draw = random.Random(int(seed)).random
    susceptible, infected = POPULATION - FIRST_CASES, FIRST_CASES
    rate = float(reproduction) / POPULATION
    while infected:
        # The next event is an infection or a recovery; when it comes does not matter here.
        infection = rate * susceptible
        if draw() * (infection + 1) < infection:
            susceptible, infected = susceptible - 1, infected + 1
        else:
            infected -= 1
    return np.float32(1 - susceptible / POPULATION)


@jax.jit
def mean_size(reproductions, seeds):
    """For each reproduction number, the mean over all seeds."""
    return jax.vmap(lambda r: jax.vmap(lambda seed: outbreak(r, seed))(seeds).mean())(reproductions)


@jax.jit
def expected_size(reproductions):
    """The final-size equation by iteration, with those that are infected from the start."""
    start = 1 - FIRST_CASES / POPULATION

    def step(z, _):
        return 1 - start * jnp.exp(-reproductions * z), None

    return jax.lax.scan(step, jnp.ones_like(reproductions), length=200)[0]


def run(name, executor):
    outbreak.executor = executor
    jax.block_until_ready(mean_size(reproductions, seeds))  # compiles, and starts the workers
    start = time.perf_counter()
    sizes = jax.block_until_ready(mean_size(reproductions, seeds))
    print(f"{name:<28} 64 lanes in {time.perf_counter() - start:.2f} s")
    return sizes


reproductions = jnp.linspace(1.5, 5, 8)
seeds = jnp.arange(8, dtype=jnp.uint32)


def main():
    with ThreadPoolExecutor(1) as executor:
        sizes = run("one thread", executor)

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=spawn) as executor:
        by_processes = run(f"{WORKERS} processes", executor)

    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        by_dask = run(f"a Dask cluster, {WORKERS} workers", client.get_executor())

    assert np.array_equal(sizes, by_processes) and np.array_equal(sizes, by_dask)
    expected = expected_size(reproductions)
    print("\nreproduction number  reached  expected")
    for r, size, z in zip(reproductions, sizes, expected, strict=True):
        print(f"{r:19.1f}  {size:7.3f}  {z:8.3f}")
    assert np.abs(sizes - expected).max() < 0.02


# Worker processes import this file; they must not run it.
if __name__ == "__main__":
    main()
