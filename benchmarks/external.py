"""`callbax.external` beside `pure_callback`, and the ways of running the lanes of a batch.

    python benchmarks/external.py         # about half a minute; prints Markdown
    python benchmarks/external.py --quick

"threads" is compared with plain Python threads, one for each core, without JAX, that each run their
part of the lanes: that is what the machine can give at the moment. NumPy's own threads (OpenBLAS)
are off.
"""

# ruff: noqa: E402

import os

for library in ("OPENBLAS", "MKL", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import argparse
import hashlib
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

import callbax as cb
from callbax._tour.cases import scan
from callbax._tour.measure import BASELINE, Case, Measurement, format_seconds, measure
from callbax._tour.pages import MarkdownPage

PAGE = MarkdownPage()
STEPS = 5000
LANES = 64
SMALL_LANES = 2000
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
scalar = jax.ShapeDtypeStruct((), jnp.float32)


def host_sine(x):
    return np.sin(x)


def singular_values(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


def digest(block):
    return np.frombuffer(hashlib.sha256(block.data).digest(), np.uint8)


def in_scan(seconds):
    functions = {
        BASELINE: lambda x: x,
        "callbax.external": cb.external(host_sine, result=scalar),
        "callbax.pure_callback": lambda x: cb.pure_callback(host_sine, scalar, x),
        "jax.pure_callback": lambda x: jax.pure_callback(host_sine, scalar, x),
    }
    contenders = {name: scan(STEPS, function) for name, function in functions.items()}
    return measure(Case("a scalar call in `lax.scan`", "step", STEPS, contenders), seconds)


def mapped(function, array, **options):
    program = jax.jit(jax.vmap(cb.external(function, **options)))
    array = jnp.asarray(array)
    return lambda: jax.block_until_ready(program(array))


def by_plain_threads(function, array):
    def run():
        parts = np.array_split(array, CORES)
        threads = [threading.Thread(target=lambda p=p: [*map(function, p)]) for p in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def lanes(title, function, array, result, seconds):
    contenders = {
        method: mapped(function, array, result=result, vmap_method=method)
        for method in ("sequential", "threads")
    }
    contenders[f"Python loop on {CORES} plain threads"] = by_plain_threads(function, array)
    contenders["Python loop on one thread"] = lambda: [*map(function, array)]
    return measure(Case(title, "lane", len(array), contenders), seconds)


def overhead(seconds):
    spawn = multiprocessing.get_context("spawn")
    x = np.arange(SMALL_LANES, dtype=np.float32)
    with (
        ThreadPoolExecutor(CORES) as threads,
        ProcessPoolExecutor(CORES, mp_context=spawn) as processes,
    ):
        contenders = {
            "sequential": mapped(host_sine, x, result=scalar),
            "threads": mapped(host_sine, x, result=scalar, vmap_method="threads"),
            "executor=ThreadPoolExecutor": mapped(host_sine, x, result=scalar, executor=threads),
            "executor=ProcessPoolExecutor": mapped(host_sine, x, result=scalar, executor=processes),
            "jax.pure_callback, sequential": theirs(x),
        }
        title = f"what a lane costs: `numpy.sin` of a scalar, {SMALL_LANES} lanes"
        return measure(Case(title, "lane", SMALL_LANES, contenders), seconds)


def theirs(x):
    def call(x):
        return jax.pure_callback(host_sine, scalar, x, vmap_method="sequential")

    program, x = jax.jit(jax.vmap(call)), jnp.asarray(x)
    return lambda: program(x).block_until_ready()


def show(measured: Measurement) -> None:
    PAGE.heading(measured.case.title)
    rows = []
    for name in measured.samples:
        if name != BASELINE:
            time = measured.net(name)
            median, lower, upper = map(format_seconds, (time.median, time.lower, time.upper))
            rows.append((name, median, f"{lower} – {upper}"))
    PAGE.table(("", f"per {measured.case.per}", "quartiles"), rows, "")
    if "threads" in measured.samples:
        ratios = f"threads: {measured.ratio('sequential', 'threads'):.2f} × sequential"
        plain = f"Python loop on {CORES} plain threads"
        if plain in measured.samples:
            possible = measured.ratio("Python loop on one thread", plain)
            ratios += f"; plain threads: {possible:.2f} × one thread"
        PAGE.paragraph(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    seconds = 1.0 if parser.parse_args().quick else 6.0
    random = np.random.default_rng(0)
    matrices = random.normal(size=(LANES, 120, 120)).astype(np.float32)
    values = jax.ShapeDtypeStruct((120,), jnp.float32)
    blocks = random.integers(0, 256, (LANES, 1 << 20)).astype(np.uint8)
    hashes = jax.ShapeDtypeStruct((32,), jnp.uint8)
    title = f"`numpy.linalg.svd` of 120 × 120, {LANES} lanes"
    show(in_scan(seconds))
    show(lanes(title, singular_values, matrices, values, seconds))
    show(lanes(f"SHA-256 of 1 MiB, {LANES} lanes", digest, blocks, hashes, seconds))
    show(overhead(seconds))


# Worker processes import this file.
if __name__ == "__main__":
    main()
