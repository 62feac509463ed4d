"""What a progress bar costs the loop that it shows, beside jax-tqdm and a host call at each step.

    python benchmarks/progress.py             # about a minute; prints Markdown
    python benchmarks/progress.py --quick

The bars write lines into /dev/null. The body of the loops does next to nothing. jax-tqdm, which takes
a hundred times as long, does fewer steps. The contenders take turns in one process, and all figures
are CPU time of the process, its painter and tqdm's monitor included.
"""

import argparse
import contextlib
import gc
import os
import statistics
import sys
import time

import jax
import jax.numpy as jnp

import callbax as cb
from callbax import tools
from callbax._tour.measure import format_seconds
from callbax._tour.pages import MarkdownPage

STEPS = 1_000_000
JAX_TQDM_STEPS = 5_000


def look(i):
    pass


def without(carry, i):
    return 0.999 * carry + 1.0, None


def with_call(carry, i):
    cb.debug.callback(look, i)
    return without(carry, i)


def with_metrics(carry, i):
    BAR.step(loss=carry)
    return without(carry, i)


BAR = tools.Progress(label="bar", display="text")


def contenders():
    """By name: the loop, as a function of the carry, and its steps."""

    def scan(body, steps=STEPS, **progress):
        loop = tools.scan if progress else jax.lax.scan
        return jax.jit(lambda c: loop(body, c, jnp.arange(steps), **progress)[0]), steps

    found = {
        "without a bar": scan(without),
        "tools.scan(progress=...)": scan(without, progress=BAR),
        "the same with Progress.step(loss=...)": scan(with_metrics, progress=BAR),
        "debug.callback at each step": scan(with_call),
    }
    try:
        from jax_tqdm import scan_tqdm
    except ImportError:
        print("jax-tqdm is not installed, and is left out.")
    else:
        body = scan_tqdm(JAX_TQDM_STEPS, print_rate=1)(without)
        found["jax-tqdm, print_rate=1"] = scan(body, JAX_TQDM_STEPS)
    return found


@contextlib.contextmanager
def unseen():
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def measure(rounds):
    """CPU seconds a step, of each, in each round."""
    loops = contenders()
    samples = {name: [] for name in loops}
    with unseen():
        for i in range(rounds + 1):
            for name, (loop, steps) in list(loops.items()):
                gc.collect()
                start = time.process_time()
                jax.block_until_ready(loop(1.0))
                jax.effects_barrier()
                if i:  # the first compiles
                    samples[name].append((time.process_time() - start) / steps)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    samples = measure(3 if parser.parse_args().quick else 15)
    medians = {name: statistics.median(taken) for name, taken in samples.items()}
    base = medians["without a bar"]
    ours = medians["tools.scan(progress=...)"] - base
    rows = []
    for name, seconds in medians.items():
        net = seconds - base
        figures = (
            ("", "") if name == "without a bar" else (format_seconds(net), f"{net / ours:.3g}×")
        )
        rows.append((name, format_seconds(seconds), *figures))
    page = MarkdownPage()
    page.heading(f"lax.scan of {STEPS:,} steps, CPU time per step")
    page.table(("", "median", "net", "× a bar"), rows, "")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
