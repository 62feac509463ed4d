"""The pictures of the gallery, drawn from what the examples compute.

    pip install '.[examples]' && python docs/pictures/gallery.py [NAME ...]

Each function in DRAWN runs the example of its name, and draws NAME.svg beside this file.
"""

import json
import pathlib
import runpy
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import callbax as cb

PICTURES = pathlib.Path(__file__).parent
EXAMPLES = PICTURES.parent.parent / "examples"


def example(name):
    """What the example has computed, by name; one with a `main` has run nothing yet."""
    jax.config.update("jax_enable_x64", False)  # some enable it
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="example")


def lynx_and_hare(axes):
    of = example("lynx_and_hare")
    p, start = of["found"], of["start"]
    years = np.arange(0, 20.01, 0.1)
    alpha, beta, gamma, delta = p

    def rate(t, y):
        return (alpha - beta * y[1]) * y[0], (delta * y[0] - gamma) * y[1]

    lines = of["solve"](rate, (0, 20), np.asarray(start), t_eval=np.clip(years, 0, 20))
    for line, pelts, name, colour in zip(
        lines, of["PELTS"].T, ("hares", "lynxes"), ("C0", "C1"), strict=True
    ):
        axes.plot(1900 + years, line, colour, label=name)
        axes.plot(1900 + of["YEARS"], pelts, colour + "o", markersize=3)
    axes.set(title="An ODE of SciPy's, fitted by its adjoint", ylabel="thousand pelts")
    axes.set_xticks(range(1900, 1921, 5))
    axes.legend(frameon=False)


def nile_matern(axes):
    of = example("nile_matern")
    sigma, length, order = 1.65, 12.0, 0.11  # about what the example finds
    covariance = np.asarray(of["covariance"](sigma, length, order))
    years, flow = of["YEARS"], of["DEVIATION"]
    # Of the flow without the part that differs from year to year: all but that year's own variance.
    smooth = covariance - np.diag(np.diag(covariance) - covariance[0, 1])
    mean = smooth @ np.linalg.solve(covariance, flow)
    spread = np.sqrt(np.maximum(np.diag(smooth - smooth @ np.linalg.solve(covariance, smooth)), 0))
    centre = of["FLOW"].mean()
    axes.plot(years, of["FLOW"], "k.", markersize=3)
    axes.plot(years, centre + 100 * mean, "C0")
    axes.fill_between(
        years, centre + 100 * (mean - 2 * spread), centre + 100 * (mean + 2 * spread), alpha=0.25
    )
    axes.set(title="A Gaussian process with SciPy's kv: the Nile", ylabel="10⁸ m³ a year")


def model_in_policy(axes):
    of = example("model_in_policy")
    axes.plot(np.asarray(of["costs"]).T, linewidth=1)
    axes.set(title="A forest of scikit-learn's in a compiled search", xlabel="step", ylabel="cost")


def simulator_lanes(axes):
    of = example("simulator_lanes")
    # A smaller outbreak than the example's, so that all its lanes are drawn in a second.
    of["main"].__globals__.update(POPULATION=5_000, FIRST_CASES=50)
    outbreak = of["outbreak"]
    numbers, seeds = jnp.linspace(1.2, 4.0, 15), jnp.arange(4, dtype=jnp.uint32)
    each = jax.vmap(lambda r: jax.vmap(lambda seed: outbreak(r, seed))(seeds))
    axes.plot(numbers, jax.jit(each)(numbers), "C0.", markersize=4)
    axes.plot(numbers, of["expected_size"](numbers), "k", linewidth=1, label="final-size equation")
    axes.set(title="A simulator in plain Python, by lanes", xlabel="reproduction number")
    axes.set(ylabel="share reached")
    axes.legend(frameon=False)


def drum_modes(axes):
    of = example("drum_modes")
    modes = [[of["shape"](order, number, 71) for order in range(4)] for number in (1, 2)]
    picture = np.block([[mode / np.nanmax(abs(mode)) for mode in row] for row in modes])
    axes.imshow(picture, cmap="RdBu", vmin=-1, vmax=1, interpolation="none")
    axes.set_axis_off()
    axes.set(title="Modes of a drum: zeros of Bessel functions")


def timeline(axes):
    """A training loop with a slow save in each fourth step, as `tools.timeline` has seen it."""

    def read(i):
        time.sleep(2e-3)
        return np.float32(i)

    def show(x):
        time.sleep(1e-3)

    def save(x):
        time.sleep(5e-3)

    @jax.jit
    def run(x):
        def step(x, i):
            x += cb.io_callback(read, jax.ShapeDtypeStruct((), np.float32), i, ordered=True)
            cb.debug.callback(show, x, ordered=True)
            cb.tools.every(4, i, save, x)
            return x, None

        return jax.lax.scan(step, x, jnp.arange(12))[0]

    run(jnp.float32(0)).block_until_ready()
    with tempfile.TemporaryDirectory() as folder:
        trace = pathlib.Path(folder, "trace.json")
        with cb.tools.timeline(trace):
            run(jnp.float32(0)).block_until_ready()
            cb.effects_barrier()
        events = json.loads(trace.read_text())["traceEvents"]
    calls = [event for event in events if event["ph"] == "X" and event["cat"] != "GIL"]
    functions = [call["name"].partition(" ")[0].split(".")[-1] for call in calls]
    names = list(dict.fromkeys(functions))
    start = min(call["ts"] for call in calls)
    for call, function in zip(calls, functions, strict=True):
        row = names.index(function)
        axes.barh(row, call["dur"] / 1e3, left=(call["ts"] - start) / 1e3, color=f"C{row}")
    axes.set_yticks(range(len(names)), names)
    axes.set(title="tools.timeline: which callback ran when", xlabel="ms")


DRAWN = (lynx_and_hare, nile_matern, model_in_policy, simulator_lanes, drum_modes, timeline)


def main(names, folder=PICTURES):
    matplotlib.use("svg")
    from matplotlib import pyplot

    # Small files, equal in each run; text stays text.
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "callbax", "font.size": 9})
    for draw in DRAWN:
        if names and draw.__name__ not in names:
            continue
        figure, axes = pyplot.subplots(figsize=(5, 2.6), layout="constrained")
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        path = folder / f"{draw.__name__}.svg"
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
        print(path.name, f"{path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
