"""A training run as one compiled program: bar, log, checkpoints, early stop, checks.

    python examples/recipes/training.py

Checkpoints are orbax's where `pip install '.[recipes]'` has brought it, and otherwise NumPy's.
"""

import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import callbax as cb
from callbax import tools

try:
    import orbax.checkpoint as orbax
except ImportError:
    orbax = None

folder = Path(tempfile.mkdtemp())
losses = []


def save(step, weights):
    """Both ways write elsewhere and then rename: nobody ever sees half a checkpoint."""
    path = folder / f"step{step:04d}"
    if orbax:
        with orbax.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, weights, force=True)
        return
    with open(folder / "unfinished", "wb") as file:
        np.savez(file, **weights)
        file.flush()
        os.fsync(file.fileno())
    os.replace(folder / "unfinished", path.with_suffix(".npz"))


@cb.external(result=jax.ShapeDtypeStruct((), bool), effects="ordered")
def has_stalled(loss):
    """The host decides: the last 200 steps have gained less than a tenth."""
    losses.append(float(loss))
    return len(losses) > 200 and losses[-1] > 0.9 * losses[-201]


@tools.checked  # what is raised is the program's own exception
@jax.jit
def train(weights, rate):
    x = jnp.linspace(-1, 1, 64)
    bar = tools.Progress(total=5000, label="train")

    def loss_of(weights):
        hidden = jnp.tanh(x[:, None] * weights["slope"] + weights["shift"])
        return jnp.mean((hidden @ weights["height"] - jnp.sin(3 * x)) ** 2)

    def update(state):
        step, weights, _ = state
        loss, gradient = jax.value_and_grad(loss_of)(weights)
        gradient = tools.check_finite(gradient, "gradient", step=step)
        bar.step(loss=loss)
        log(step, loss=loss)
        tools.every(1000, step, save, step, weights)
        weights = jax.tree.map(lambda w, g: w - rate * g, weights, gradient)
        return step + 1, weights, has_stalled(loss)

    def goes_on(state):
        step, _, stalled = state
        return (step < 5000) & ~stalled

    return tools.while_loop(goes_on, update, (0, weights, False), progress=bar)


start = {"slope": jnp.linspace(1, 3, 8), "shift": jnp.linspace(-1, 1, 8), "height": jnp.zeros(8)}
with tools.Log(folder / "loss.csv") as log:
    steps, _, stopped = train(start, 0.1)
    print(f"loss {losses[0]:.3f}, after {steps} steps {losses[-1]:.4f}; stopped early: {stopped}")
    print("checkpoints:", *sorted(path.stem for path in folder.glob("step*")))
    log.flush()
    print("the log:", *(folder / "loss.csv").read_text().splitlines()[:3], "...")

    losses.clear()
    try:
        train(start, 1e30)
    except FloatingPointError as error:
        print("FloatingPointError:", error)
