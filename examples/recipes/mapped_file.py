"""Training on a mapped file: batches in a shuffled order, the end of the data, and a checkpoint.

    python examples/recipes/mapped_file.py

Rows are read ahead by a thread, while the program computes. The loop has a fixed number of steps; those
after the end of the data change nothing.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from callbax import tools

ROWS, SIZE = 10_000, 64
path = Path(tempfile.mkdtemp()) / "rows.npy"
rng = np.random.default_rng(0)
rows = np.lib.format.open_memmap(path, "w+", np.float32, (ROWS, 4))
rows[:, :3] = rng.standard_normal((ROWS, 3))
rows[:, 3] = rows[:, :3] @ np.float32([2, -1, 0.5]) + 0.1 * rng.standard_normal(ROWS)
rows.flush()


class Shuffled:
    """Item i is batch i; the last one is padded, since all must be alike."""

    def __init__(self, path):
        self.rows = np.load(path, mmap_mode="r")
        self.order = np.random.default_rng(1).permutation(len(self.rows))

    def __len__(self):
        return -(-len(self.rows) // SIZE)

    def __getitem__(self, i):
        chosen = self.order[i * SIZE : (i + 1) * SIZE]
        rows = np.zeros((SIZE, 4), np.float32)
        rows[: len(chosen)] = self.rows[chosen]
        return {"x": rows[:, :3], "y": rows[:, 3], "is_row": np.arange(SIZE) < len(chosen)}


batches = tools.Batches(Shuffled(path))


@jax.jit
def hundred_steps(weights, seen):
    def step(state, _):
        weights, seen = state
        batch, valid = batches.next()
        counts = batch["is_row"] & valid

        def loss(weights):
            return jnp.sum(counts * (batch["x"] @ weights - batch["y"]) ** 2) / SIZE

        return (weights - 0.02 * jax.grad(loss)(weights), seen + counts.sum()), valid

    (weights, seen), valid = jax.lax.scan(step, (weights, seen), length=100)
    return weights, seen, valid.sum()


def train(weights, seen):
    """Until the data ends; gives what a checkpoint after the first hundred steps holds, too."""
    checkpoint = None
    taken = 100
    while taken == 100:
        weights, seen, taken = hundred_steps(weights, seen)
        print(f"{taken} steps, {seen} rows so far: weights", np.asarray(weights).round(2))
        checkpoint = checkpoint or {"state": (weights, seen), "position": batches.position}
    return weights, checkpoint


weights, checkpoint = train(jnp.zeros(3), 0)

batches.restart(checkpoint["position"])  # in another process, perhaps
again, _ = train(*checkpoint["state"])
print("the same weights:", bool((again == weights).all()))
