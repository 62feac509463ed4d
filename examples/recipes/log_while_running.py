"""A log in SQLite, read while the program that writes it runs.

    python examples/recipes/log_while_running.py

The reader here is a thread; any other process may do the same, such as `sqlite3 metrics.sqlite` or a
dashboard.
"""

import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp

from callbax import tools

path = Path(tempfile.mkdtemp()) / "metrics.sqlite"
log = tools.Log(path)


@jax.jit
def power_iteration(matrix):
    def step(x, i):
        y = matrix @ x
        log(i, eigenvalue=jnp.vdot(x, y))
        return y / jnp.linalg.norm(y), None

    return jax.lax.scan(step, jnp.ones(len(matrix)) / 40, jnp.arange(1000))[0]


def run():
    matrix = jax.random.normal(jax.random.key(0), (1600, 1600)) / 40
    power_iteration(matrix @ matrix.T).block_until_ready()
    log.close()


def read():
    """The number of rows, and the last one; nothing before the first are written."""
    database = sqlite3.connect(path)
    try:
        query = "SELECT count(*), max(step), eigenvalue FROM log"
        return database.execute(query).fetchone()
    except sqlite3.OperationalError:
        return None
    finally:
        database.close()


with ThreadPoolExecutor() as pool:
    running = pool.submit(run)
    readings = []
    while not running.done():
        if (reading := read()) and (not readings or reading[0] > readings[-1][0]):
            readings.append(reading)
    running.result()

rows, step, eigenvalue = read()
print(f"{len(readings)} readings while it ran, the first of {readings[0][0]} rows")
print(f"in the end {rows} rows; at step {step} the largest eigenvalue is {eigenvalue:.2f}")
assert 0 < readings[0][0] < rows == 1000
