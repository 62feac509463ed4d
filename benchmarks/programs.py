"""Programs that travel and scale: the first call with a full cache, export, and eight devices.

    python benchmarks/programs.py         # about two minutes; prints Markdown
    python benchmarks/programs.py --quick

What happens once in a process is timed in processes of their own, by turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

# Before JAX starts. The device counts of processes that are started from here follow from it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

import callbax
from callbax._tour.measure import Case, format_seconds, measure
from callbax._tour.pages import MarkdownPage

PAGE = MarkdownPage()
SCALAR = jax.ShapeDtypeStruct((), np.float32)
LAYERS = 30


# -- once in a process ---------------------------------------------------------------------------------
class Nothing:
    """A library whose callbacks are left out."""

    pure_callback = staticmethod(lambda function, result, x: x)

    class debug:
        print = staticmethod(lambda *args: None)


def model(library, x):
    """Some layers; each asks NumPy, and the last is printed."""
    for _ in range(LAYERS):
        x = jnp.sin(x) + library.pure_callback(np.cos, SCALAR, x)
    library.debug.print("{}", x)
    return x


LIBRARIES = {"without callbacks": Nothing, "callbax": callbax, "jax.*": jax}


def first_call(library):
    """Traces, lowers and compiles, or finds it in the cache."""
    program = jax.jit(lambda x: model(library, x))
    x = jnp.float32(1)

    def run():
        program(x).block_until_ready()
        jax.effects_barrier()

    return run


def first_call_loaded(library):
    """Loads an exported program and calls it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = export.export(
            jax.jit(lambda x: model(library, x)), disabled_checks=callbax.EXPORT_CHECKS
        )(SCALAR)
    data = exported.serialize()
    x = jnp.float32(1)
    return lambda: jax.jit(export.deserialize(data).call)(x).block_until_ready()


ONCE = {
    "first call, cached by another process": ("callbax", "jax.*", "without callbacks"),
    "first call, nothing cached": ("callbax", "jax.*", "without callbacks"),
    "load an exported program and call it": ("callbax", "without callbacks"),
}
PROGRAMS = {title: first_call for title in ONCE} | {
    "load an exported program and call it": first_call_loaded
}


def work(title, name):
    """In a process of its own: prints how many seconds it took."""
    callbax.allow("numpy:cos")
    run = PROGRAMS[title](LIBRARIES[name])
    start = time.perf_counter()
    run()
    print("\n", time.perf_counter() - start)


def seconds(title, name, cache):
    settings = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    environment = {**os.environ, "XLA_FLAGS": "", **(settings if "cached by" in title else {})}
    command = [sys.executable, __file__, "--work", title, name]
    output = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    return float(output.stdout.split()[-1])


def measure_once(rounds):
    with tempfile.TemporaryDirectory() as cache:
        taken = {(title, name): [] for title, names in ONCE.items() for name in names}
        for round_ in range(rounds + 1):
            for title, name in taken:
                value = seconds(title, name, os.path.join(cache, name))
                if round_:  # the first fills the cache
                    taken[title, name].append(value)
    rows = []
    for title, names in ONCE.items():
        medians = {name: statistics.median(taken[title, name]) for name in names}
        shown = [format_seconds(medians[n]) if n in medians else "" for n in LIBRARIES]
        rows.append((title, *shown))
    PAGE.table(
        ("once in a process", *LIBRARIES), rows, f"A program with {LAYERS} callbacks and a print"
    )


# -- eight devices --------------------------------------------------------------------------------------
def measure_devices(seconds):
    """Without jax.pure_callback: with JAX 0.10.2 on two cores it deadlocks from 2 MiB on."""
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = []
    for size in (2**10, 2**16, 2**21):
        x = jax.device_put(np.ones((8, size), np.float32), NamedSharding(mesh, PartitionSpec("i")))
        per_shard = callbax.external(np.sin, result="broadcast", per_shard=True)
        whole = callbax.external(np.sin, result="broadcast")
        contenders = {
            "callbax, per_shard": per_shard,
            "callbax": whole,
            "jnp.sin": jnp.sin,
        }
        runs = {}
        for name, function in contenders.items():
            program = jax.jit(lambda x, function=function: function(x) * 2)
            runs[name] = lambda program=program, x=x: program(x).block_until_ready()
        measured = measure(Case(f"{size}", "call", 1, runs), seconds)
        medians = [format_seconds(measured.total(name).median) for name in runs]
        rows.append((f"8 × {size} float32", *medians))
    PAGE.table(
        ("a jitted call of numpy.sin", *contenders), rows, "Sharded over 8 devices of one CPU"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    measure_once(1 if options.quick else 7)
    measure_devices(0.5 if options.quick else 8)


if __name__ == "__main__":
    main()
