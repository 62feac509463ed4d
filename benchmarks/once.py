"""What is paid once, and what eager calls and prints cost, beside JAX and Python's own print.

    python benchmarks/once.py             # about a minute; prints Markdown
    python benchmarks/once.py --quick

All figures are CPU time of the process, since most of this is work of Python's in one thread. The
contenders take turns, and a ratio is that of their medians.
"""

import argparse
import contextlib
import gc
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
import types

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

import callbax as cb
from callbax._tour.cases import scan
from callbax._tour.measure import format_seconds
from callbax._tour.pages import MarkdownPage

PAGE = MarkdownPage()
SCALAR = jax.ShapeDtypeStruct((), np.float32)
EAGER_CALLS = 50
DIFFERENT = 200
PRINTS = 500
IMPORT = "import time{before}; start = time.process_time(); import {module}; "
IMPORT += "print(time.process_time() - start)"


def medians(contenders, rounds):
    """CPU seconds of each, by turns; a contender returns what it took."""
    for run in contenders.values():
        run()
    samples = {name: [] for name in contenders}
    for i in range(rounds):
        turns = list(contenders.items())
        for name, run in turns if i % 2 else reversed(turns):
            gc.collect()
            gc.disable()
            samples[name].append(run())
            gc.enable()
    return {name: statistics.median(taken) for name, taken in samples.items()}


def show(title, per, pairs, measured):
    """A row for each pair of contenders: ours, and what it is compared with."""
    PAGE.heading(title)
    rows = []
    for ours, other in pairs:
        times = measured[ours], measured[other]
        rows.append((ours, other, *map(format_seconds, times), f"{times[0] / times[1]:.2f}"))
    PAGE.table(("", "beside", f"per {per}", "the other", "ratio"), rows, "")


def calls(function, count):
    def run():
        start = time.process_time()
        for _ in range(count):
            result = function()
        jax.block_until_ready(result)
        return (time.process_time() - start) / count

    return run


# -- eager calls -----------------------------------------------------------------------------------
def identity(x):
    return x


def eager(rounds):
    x = jnp.float32(1)
    external, ufunc = cb.external(identity, result=SCALAR), cb.ufunc(np.sin)
    theirs = jax.experimental.io_callback
    functions = {
        "pure_callback": lambda: cb.pure_callback(identity, SCALAR, x),
        "jax.pure_callback": lambda: jax.pure_callback(identity, SCALAR, x),
        "io_callback": lambda: cb.io_callback(identity, SCALAR, x),
        "jax's io_callback": lambda: theirs(identity, SCALAR, x),
        "io_callback, ordered": lambda: cb.io_callback(identity, SCALAR, x, ordered=True),
        "jax's, ordered": lambda: theirs(identity, SCALAR, x, ordered=True),
        "external": lambda: external(x),
        "ufunc(numpy.sin)": lambda: ufunc(x),
        "jax.numpy.sin": lambda: jnp.sin(x),
    }
    pairs = [
        ("pure_callback", "jax.pure_callback"),
        ("io_callback", "jax's io_callback"),
        ("io_callback, ordered", "jax's, ordered"),
        ("external", "jax.pure_callback"),
        ("ufunc(numpy.sin)", "jax.numpy.sin"),
    ]
    contenders = {name: calls(function, EAGER_CALLS) for name, function in functions.items()}
    show("An eager call", "call", pairs, medians(contenders, rounds))


# -- a program of many callbacks -------------------------------------------------------------------
numbers = itertools.count()


def different_functions():
    """Functions of a module, as a program imports them; each time others."""
    module = types.ModuleType(f"callbacks_{next(numbers)}")
    sys.modules[module.__name__] = module
    exec("\n".join(f"def f{i}(x): return x" for i in range(DIFFERENT)), vars(module))  # noqa: S102
    return [vars(module)[f"f{i}"] for i in range(DIFFERENT)]


def printing(debug_print):
    def call(i, x):
        debug_print(f"{i} {next(numbers)} {{}}", x)
        return x

    return lambda: call


def many(rounds):
    theirs = jax.experimental.io_callback

    def of_functions(call):
        def make():
            functions = different_functions()
            return lambda i, x: call(functions[i], x)

        return make

    def externals():
        functions = [cb.external(f, result=SCALAR) for f in different_functions()]
        return lambda i, x: functions[i](x)

    makers = {
        "pure_callback": of_functions(lambda f, x: cb.pure_callback(f, SCALAR, x)),
        "jax.pure_callback": of_functions(lambda f, x: jax.pure_callback(f, SCALAR, x)),
        "io_callback": of_functions(lambda f, x: cb.io_callback(f, SCALAR, x)),
        "jax's io_callback": of_functions(lambda f, x: theirs(f, SCALAR, x)),
        "io_callback, ordered": of_functions(
            lambda f, x: cb.io_callback(f, SCALAR, x, ordered=True)
        ),
        "jax's, ordered": of_functions(lambda f, x: theirs(f, SCALAR, x, ordered=True)),
        "external": externals,
        "debug.print": printing(cb.debug.print),
        "jax.debug.print": printing(jax.debug.print),
    }

    def trace_and_lower(make):
        def run():
            call = make()

            def program(x):
                for i in range(DIFFERENT):
                    x = call(i, x)
                return x

            start = time.process_time()
            jax.jit(program).trace(jnp.float32(1)).lower()
            return time.process_time() - start

        return run

    pairs = [
        ("pure_callback", "jax.pure_callback"),
        ("io_callback", "jax's io_callback"),
        ("io_callback, ordered", "jax's, ordered"),
        ("external", "jax.pure_callback"),
        ("debug.print", "jax.debug.print"),
    ]
    contenders = {name: trace_and_lower(make) for name, make in makers.items()}
    title = f"Tracing and lowering a program of {DIFFERENT} different callbacks"
    show(title, "program", pairs, medians(contenders, rounds))


# -- prints ----------------------------------------------------------------------------------------
@contextlib.contextmanager
def into_a_pipe():
    """Standard output goes into a pipe that a thread reads."""
    read, write = os.pipe()

    def drain():
        while os.read(read, 1 << 16):
            pass

    thread = threading.Thread(target=drain)
    thread.start()
    with os.fdopen(write, "w") as pipe, contextlib.redirect_stdout(pipe):
        yield
    thread.join()
    os.close(read)


def prints(rounds):
    """The same lines: the number is halved at each step."""

    def body(x):
        cb.debug.print("x = {}", x)
        return x

    def plainly():
        x = 1.0
        for _ in range(PRINTS):
            print(f"x = {x}")
            x *= 0.5

    def timed(run):
        def timed_run():
            start = time.process_time()
            run()
            sys.stdout.flush()
            return (time.process_time() - start) / PRINTS

        return timed_run

    runs = {"debug.print in lax.scan": scan(PRINTS, body), "Python's print in a loop": plainly}
    with into_a_pipe():
        measured = medians({name: timed(run) for name, run in runs.items()}, 4 * rounds)
    show("The same lines, printed into a pipe", "line", [tuple(runs)], measured)


# -- import ----------------------------------------------------------------------------------------
def imports(rounds):
    def of(module, before=""):
        program = IMPORT.format(module=module, before=before)

        def run():
            command = [sys.executable, "-c", program]
            return float(subprocess.run(command, check=True, capture_output=True).stdout)

        return run

    contenders = {"import callbax, after jax": of("callbax", ", jax"), "import jax": of("jax")}
    show("Starting", "import", [tuple(contenders)], medians(contenders, rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    rounds = 5 if parser.parse_args().quick else 15
    eager(rounds)
    many(rounds)
    prints(rounds)
    imports(rounds)


if __name__ == "__main__":
    main()
