"""What feeding a loop costs: tools.Batches in a compiled loop, and Python loops that feed a step.

    python benchmarks/batches.py             # about a minute; prints Markdown
    python benchmarks/batches.py --quick

Each contender makes the same pass over the same batches, read by a source that copies them out of a
mapped file, as a decoder would. The contenders take turns in one process. "Data in memory" is the
compiled loop over all batches at once, where they fit: what the loop itself takes.
"""

import argparse
import gc
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from callbax import tools
from callbax._tour.measure import format_seconds
from callbax._tour.pages import MarkdownPage

CASES = {"1 KiB, 4,000 of them": (4000, 16, 16), "1 MiB, 100 of them": (100, 512, 512)}
OURS = "tools.Batches"


def update(weights, batch):
    return 0.9 * weights + 0.1 * jnp.tanh(batch @ weights)


def contenders(data):
    """By name: a pass over the batches, as a function of the weights."""
    count = len(data)
    step = jax.jit(update)

    class Source:
        def __len__(self):
            return count

        def __getitem__(self, i):
            return np.array(data[i])

    source = Source()

    def compiled(prefetch):
        batches = tools.Batches(source, prefetch=prefetch)

        def body(weights, _):
            batch, valid = batches.next()
            return jnp.where(valid, update(weights, batch), weights), None

        program = jax.jit(lambda weights: jax.lax.scan(body, weights, length=count)[0])

        def run(weights):
            batches.restart()
            return program(weights)

        return run

    def plain(weights):
        for i in range(count):
            weights = step(weights, source[i])
        return weights

    def double_buffered(weights):
        following = jax.device_put(source[0])
        for i in range(count):
            batch = following
            if i + 1 < count:
                following = jax.device_put(source[i + 1])
            weights = step(weights, batch)
        return weights

    in_memory = jax.jit(lambda w, all: jax.lax.scan(lambda w, b: (update(w, b), None), w, all)[0])
    everything = jnp.asarray(data)
    return {
        "data in memory": lambda weights: in_memory(weights, everything),
        OURS: compiled(2),
        "tools.Batches, prefetch=0": compiled(0),
        "Python loop": plain,
        "Python loop, jax.device_put of the next batch": double_buffered,
    }


def measure(passes, weights, rounds):
    samples = {name: [] for name in passes}
    for i in range(rounds + 1):
        for name, run in passes.items():
            gc.collect()
            start = time.perf_counter()
            result = jax.block_until_ready(run(weights))
            if i:  # the first compiles
                samples[name].append(time.perf_counter() - start)
            np.testing.assert_allclose(result, run(weights), rtol=1e-3)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    rounds = 3 if parser.parse_args().quick else 15
    page = MarkdownPage()
    with tempfile.TemporaryDirectory() as directory:
        for title, shape in CASES.items():
            path = pathlib.Path(directory) / f"{shape[0]}.npy"
            np.save(path, np.random.default_rng(0).standard_normal(shape, np.float32))
            medians = measure(contenders(np.load(path, mmap_mode="r")), jnp.ones(shape[1:]), rounds)
            page.heading(f"Batches of {title}, time per batch")
            rows = [
                (name, format_seconds(seconds / shape[0]), f"{seconds / medians[OURS]:.3g}×")
                for name, seconds in medians.items()
            ]
            page.table(("", "median", "× tools.Batches"), rows, "")


if __name__ == "__main__":
    main()
