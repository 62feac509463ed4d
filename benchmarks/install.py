"""JAX's own callbacks with callbax installed, beside callbax's and beside JAX on its own.

python benchmarks/install.py          # about a minute; prints Markdown
python benchmarks/install.py --quick
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax._install import state
from callbax._tour.cases import SCALAR, calls, identity, ignore, scan
from callbax._tour.measure import Case, format_seconds, measure
from callbax._tour.pages import MarkdownPage

PAGE = MarkdownPage()
STEPS = 1000
LANES = jnp.arange(1000, dtype=np.float32)
CONTENDERS = {"callbax": callbax, "jax.*, installed": jax, "jax.*": jax}


def shown(library, x):
    library.debug.callback(ignore, x)
    return x


def lanes(library):
    pure = functools.partial(library.pure_callback, identity, SCALAR, vmap_method="sequential")
    return calls(5, jax.vmap(lambda x: pure(x) + 1), LANES)


def eagerly(library):
    x = jnp.float32(1)

    def run():
        for _ in range(100):
            library.debug.callback(ignore, x)

    return run


CASES = {
    "a step of lax.scan, pure callback": (
        STEPS,
        lambda library: scan(STEPS, functools.partial(library.pure_callback, identity, SCALAR)),
    ),
    "a step of lax.scan, debug.callback": (
        STEPS,
        lambda library: scan(STEPS, functools.partial(shown, library)),
    ),
    "a lane of vmap, pure callback": (5 * len(LANES), lanes),
    "an eager debug.callback": (100, eagerly),
}


def with_setting(name, program):
    """The program, traced and called with callbax installed or not; what says so costs the same."""
    setting = "numpy" if name.endswith("installed") else None

    def run():
        with state.context()(setting):
            program()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    callbax.install()
    rows = []
    for title, (count, program) in CASES.items():
        runs = {name: with_setting(name, program(library)) for name, library in CONTENDERS.items()}
        measured = measure(Case(title, "call", count, runs), 0.5 if options.quick else 10)
        medians = [format_seconds(measured.total(name).median) for name in runs]
        ratios = [
            f"{measured.ratio('jax.*, installed', 'callbax'):.2f}",
            f"{measured.ratio('jax.*', 'jax.*, installed'):.1f}",
        ]
        rows.append((title, *medians, *ratios))
    PAGE.table(
        ("", *CONTENDERS, "installed / callbax", "jax.* / installed"), rows, "JAX's own callbacks"
    )


if __name__ == "__main__":
    main()
