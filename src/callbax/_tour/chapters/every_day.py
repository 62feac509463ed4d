"""Every day: a bar, a log, a check, and when it all happened.

`callbax.tools` has what people write callbacks for again and again. Here one compiled program fits a
polynomial with three learning rates at once, by `vmap`. There is one bar for all lanes, a row of the
log has a column for each, and a check names the lanes that fail.
"""

import contextlib
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax import tools
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)


def save(weights: np.ndarray) -> None:
    with tempfile.TemporaryFile() as file:
        np.save(file, weights)


def training(log: Callable[..., None]) -> Callable[[jax.Array], jax.Array]:
    """Makes the program, from learning rates to losses."""
    x = jnp.linspace(-1, 1, 50)
    bar = tools.Progress(label="train")

    def mean_square(weights: jax.Array) -> jax.Array:
        return jnp.mean((jnp.vander(x, 4) @ weights - jnp.sin(3 * x)) ** 2)

    def train(rate: jax.Array) -> jax.Array:
        def step(
            weights: jax.Array, i: jax.Array
        ) -> tuple[jax.Array, None]:
            loss, gradient = jax.value_and_grad(mean_square)(weights)
            gradient = tools.check_finite(gradient, "gradient", step=i)
            bar.step(loss=loss)
            log(i, loss=loss)
            tools.every(100, i, save, weights, vmap_method="expand_dims")
            return weights - rate * gradient, None

        weights, _ = tools.scan(
            step, jnp.zeros(4), jnp.arange(300), progress=bar
        )
        return mean_square(weights)

    return tools.checked(jax.jit(jax.vmap(train)))


def picture(trace: pathlib.Path, width: int = 50) -> str:
    """A line for each callback on each thread."""
    events = json.loads(trace.read_text())["traceEvents"]
    calls = [
        event
        for event in events
        if event["ph"] == "X" and event["cat"] != "GIL"
    ]
    threads = sorted({call["tid"] for call in calls})
    start = min(call["ts"] for call in calls)
    scale = (width - 1) / max(
        call["ts"] + call["dur"] - start for call in calls
    )
    lines: dict[str, list[str]] = {}
    for call in calls:
        thread = threads.index(call["tid"]) + 1
        name = f"thread {thread}  {call['name'].partition('(')[0]}"
        line = lines.setdefault(name, [" "] * width)
        begin = call["ts"] - start
        first, last = int(scale * begin), int(scale * (begin + call["dur"]))
        line[first : last + 1] = "#" * (last + 1 - first)
    return "\n".join(
        f"{name:20}|{''.join(line)}|" for name, line in lines.items()
    )


@chapter.example(
    "save",
    "training",
    prints=r"train:  100%  300/300 .* loss=.*\nstep,.*\n299,.*",
)
def bar_and_log() -> None:
    """A training run with a bar and a log.

    The bar, which goes to stderr, shows the mean and the range of the losses. A thread of its own
    writes the log. `tools.every` calls once in 100 steps, here for all lanes together.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stderr(sys.stdout),
    ):
        path = pathlib.Path(folder, "loss.csv")
        with tools.Log(path) as log:
            losses = training(log)(jnp.array([0.03, 0.1, 0.3]))
            callbax.effects_barrier()
        rows = path.read_text().splitlines()
    print(rows[0], rows[-1], sep="\n")
    assert len(rows) == 301 and (np.diff(losses) < 0).all()


@chapter.example(
    prints=r".*FloatingPointError: gradient .*step \d+, .*every_day.*in lane 1 of 2.*"
)
def check() -> None:
    """The same with a learning rate that is too large.

    The program stops where a gradient is not finite, and the call raises the error itself.
    """
    losses: list[dict] = []
    try:
        with (
            tools.Log(losses.append) as log,
            contextlib.redirect_stderr(sys.stdout),
        ):
            training(log)(jnp.array([0.1, 100.0]))
    except FloatingPointError as error:
        print("FloatingPointError:", error)
    assert np.isfinite(losses[0]["loss[1]"]) and len(losses) < 300


@chapter.example("picture", prints=r"(thread 1  \w+ +\|[ #]{50}\|\n?)+")
def timeline() -> None:
    """When it all happened.

    `tools.timeline` writes a trace of each call, for ui.perfetto.dev. This is a sketch of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        trace = pathlib.Path(folder, "trace.json")
        program = training(tools.Log(lambda row: None))
        with (
            contextlib.redirect_stderr(None),
            tools.timeline(trace) as recording,
        ):
            program(jnp.array([0.03, 0.1, 0.3])).block_until_ready()
            callbax.effects_barrier()
        print(picture(trace))
    assert (
        sum(call.name.startswith("save") for call in recording.calls) == 3
    )
