"""`callbax.ufunc` beside NumPy and SciPy themselves, JAX's callbacks and JAX's own functions.

    python benchmarks/ufunc.py            # about a minute; prints Markdown
    python benchmarks/ufunc.py --quick

What one call costs is measured inside `lax.scan`, also while another Python thread computes and so
wants the GIL all the time. Large arrays are measured with all threads of XLA's pool and, in a
process of their own, with one. They are compared with NumPy on one thread, and on as many threads
as there are cores, each with its part of the array: that is what the machine can give at the moment.
Other libraries' compiled callees (compiled_peers.py) negate a number, as `numpy.negative` does.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from compiled_peers import negations

import callbax as cb
from callbax._tour.cases import scan
from callbax._tour.measure import Case, Measurement, format_seconds, measure
from callbax._tour.pages import MarkdownPage

PAGE = MarkdownPage()
STEPS = 2000
# The thread that starts a program waits for the GIL before and after; that is not the calls' cost.
STEPS_BESIDE_BUSY_THREAD = 200_000
SIZES = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000]
FUNCTIONS = {
    "numpy.negative": (np.negative, jnp.negative),
    "scipy.special.gammaln": (scipy.special.gammaln, jax.scipy.special.gammaln),
    "scipy.special.j0": (scipy.special.j0, None),
}


def per_call(name, seconds, peers):
    original, theirs = FUNCTIONS[name]
    struct = jax.ShapeDtypeStruct((), jnp.float64)

    functions = {"callbax.ufunc": cb.ufunc(original)}
    functions["callbax.pure_callback"] = lambda x: cb.pure_callback(original, struct, x)
    functions["jax.pure_callback"] = lambda x: jax.pure_callback(original, struct, x)
    if theirs is not None:
        functions["JAX's own function"] = theirs
    if original is np.negative:
        functions |= peers
    contenders = {
        who: scan(STEPS, function, np.float64(1.5)) for who, function in functions.items()
    }
    measured = measure(Case(name, "call", STEPS, contenders), seconds)
    steps = STEPS_BESIDE_BUSY_THREAD
    busy = {
        "callbax.ufunc, GIL wanted by a busy thread": scan(
            steps, cb.ufunc(original), np.float64(1.5)
        )
    }
    with busy_thread():
        beside = measure(Case(name, "call", steps, busy), seconds / 3)
    return Measurement(measured.case, {**measured.samples, **beside.samples})


@contextlib.contextmanager
def busy_thread():
    ends = threading.Event()

    def compute():
        while not ends.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def elements(name, size, seconds, threads):
    original, theirs = FUNCTIONS[name]
    x = np.random.default_rng(0).uniform(1, 20, size)
    on_device = jnp.asarray(x)
    program = jax.jit(cb.ufunc(original))
    contenders = {f"callbax.ufunc, {threads}": lambda: program(on_device).block_until_ready()}
    if threads == "1 thread":
        return measure(Case(f"{size}", "element", 1, contenders), seconds)
    contenders["NumPy, 1 thread"] = lambda: original(x)
    if theirs is not None:
        other = jax.jit(theirs)
        contenders["JAX's own function"] = lambda: other(on_device).block_until_ready()
    if size <= 100_000:
        back = jax.jit(lambda x: jax.pure_callback(original, x, x))
        contenders["jax.pure_callback"] = lambda: back(on_device).block_until_ready()
    cores = len(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        if size >= 10_000:
            out = np.empty_like(x)
            parts = [slice(k * size // cores, (k + 1) * size // cores) for k in range(cores)]
            contenders[f"NumPy, {cores} threads"] = lambda: list(
                pool.map(lambda part: original(x[part], out=out[part]), parts)
            )
        return measure(Case(f"{size}", "element", 1, contenders), seconds)


def all_sizes(name, sizes, seconds, threads):
    return {
        size: {contender: measurement.total(contender).median for contender in measurement.samples}
        for size in sizes
        for measurement in [elements(name, size, seconds, threads)]
    }


def with_one_thread(options):
    """The sizes once more, in a process whose pool has one thread."""
    output = subprocess.run(
        [sys.executable, __file__, "--one-thread", *options],
        env={**os.environ, "NPROC": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {int(size): times for size, times in json.loads(output).items()}


def print_per_call(measurements):
    names = list(dict.fromkeys(name for m in measurements for name in m.samples))
    rows = [
        (
            name,
            *(_median(m.total(name).median if name in m.samples else None) for m in measurements),
        )
        for name in names
    ]
    PAGE.table(("in `lax.scan`, per call", *(m.case.title for m in measurements)), rows, "")


def print_sizes(name, table):
    names = sorted({contender for times in table.values() for contender in times})
    rows = [
        (contender, *(_median(times.get(contender)) for times in table.values()))
        for contender in names
    ]
    PAGE.table((f"`{name}`, elements", *(f"{size:,}" for size in table)), rows, "")


def _median(seconds):
    return "–" if seconds is None else format_seconds(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one-thread", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    seconds = 0.3 if options.quick else 2
    sizes = SIZES[::3] if options.quick else SIZES
    name = "scipy.special.gammaln"
    if options.one_thread:
        print(json.dumps(all_sizes(name, sizes, seconds, "1 thread")))
        return
    peers, missing = negations()
    print_per_call([per_call(function, seconds, peers) for function in FUNCTIONS])
    for line in missing:
        PAGE.paragraph(line)
    table = all_sizes(name, sizes, seconds, "all threads")
    for size, times in with_one_thread(["--quick"] if options.quick else []).items():
        table[size].update(times)
    print_sizes(name, table)


if __name__ == "__main__":
    main()
