"""tools.Log: what a logged step costs the program, in a scan of a million steps.

    python benchmarks/log.py [steps]

Beside it, in the same rounds: the scan alone, with a call that does nothing, and JAX's io_callback to
a csv.writer (of fewer steps). "with the barrier" includes the wait until the last row is written.
"""

import csv
import os
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

import callbax as cb
from callbax import tools

ROUNDS = 5


def scan(call, steps):
    def step(x, i):
        call(i, x)
        return 0.999 * x + 0.1, None

    return jax.jit(lambda x: jax.lax.scan(step, x, jnp.arange(steps))[0])


def measure(program, steps):
    start = time.perf_counter()
    program(1.0).block_until_ready()
    returned = time.perf_counter()
    cb.effects_barrier()
    jax.effects_barrier()
    return [1e6 * (end - start) / steps for end in (returned, time.perf_counter())]


def main(steps):
    with tempfile.TemporaryDirectory() as directory:
        nothing = cb.external(lambda i, x: None, result=None, effects="ordered_debug")
        logs = {
            f"tools.Log, {ending}": tools.Log(os.path.join(directory, f"log{ending}"))
            for ending in (".csv", ".jsonl", ".sqlite")
        }
        with open(os.path.join(directory, "jax.csv"), "w") as file:
            writer = csv.writer(file)

            def write(i, x):
                writer.writerow((i.item(), x.item()))

            few = max(1, steps // 100)
            programs = {
                "the scan alone": (scan(lambda i, x: None, steps), steps),
                "a call that does nothing": (scan(nothing, steps), steps),
                **{
                    name: (scan(lambda i, x, log=log: log(i, x=x), steps), steps)
                    for name, log in logs.items()
                },
                "jax io_callback, csv.writer": (
                    scan(lambda i, x: io_callback(write, None, i, x, ordered=True), few),
                    few,
                ),
            }
            for program, n in programs.values():
                measure(program, n)
            rounds = [
                {name: measure(*program) for name, program in programs.items()}
                for _ in range(ROUNDS)
            ]
            for log in logs.values():
                log.close()
    print("| per step | median | with the barrier |\n|---|--:|--:|")
    for name in programs:
        returned, ended = (statistics.median(r[name][k] for r in rounds) for k in (0, 1))
        print(f"| {name} | {returned:.3g} µs | {ended:.3g} µs |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
