"""Real data: training that reports while it runs.

A small network learns scikit-learn's handwritten digits. The whole training is one `lax.scan` in
one jitted program, which usually means silence until the end. Here an ordered `io_callback` writes
every step's metrics into an SQLite database while the program runs, for whoever wants to watch.
"""

import pathlib
import sqlite3
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

import callbax
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)


def split_digits() -> tuple[jax.Array, ...]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = (
        (images[order] / 16).astype(np.float32),
        labels[order].astype(np.int32),
    )
    parts = (images[:1437], labels[:1437], images[1437:], labels[1437:])
    return tuple(map(jnp.asarray, parts))


def initial_parameters() -> dict[str, np.ndarray]:
    normal = np.random.default_rng(0).standard_normal
    return {
        "hidden": normal((64, 32), np.float32) / 8,
        "hidden bias": np.zeros(32, np.float32),
        "output": normal((32, 10), np.float32) / 6,
        "output bias": np.zeros(10, np.float32),
    }


def scores(
    parameters: dict[str, jax.Array], images: jax.Array
) -> jax.Array:
    hidden = jnp.tanh(
        images @ parameters["hidden"] + parameters["hidden bias"]
    )
    return hidden @ parameters["output"] + parameters["output bias"]


def loss(
    parameters: dict[str, jax.Array], images: jax.Array, labels: jax.Array
) -> jax.Array:
    chances = jax.nn.log_softmax(scores(parameters, images))
    return -jnp.take_along_axis(chances, labels[:, None], axis=1).mean()


@jax.jit
def accuracy(
    parameters: dict[str, jax.Array], images: jax.Array, labels: jax.Array
) -> jax.Array:
    return (
        (scores(parameters, images).argmax(axis=1) == labels)
        .astype(np.float32)
        .mean()
    )


class Metrics:
    """A table in a database; compiled code calls `record`."""

    def __init__(self, path: pathlib.Path):
        # The program calls from a thread of its own.
        self.connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False
        )
        self.connection.execute(
            "PRAGMA journal_mode = WAL"
        )  # others may read while we write
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute(
            "CREATE TABLE metrics (step, loss, train, test, written)"
        )

    def record(self, step: np.ndarray, *values: np.ndarray) -> None:
        self.connection.execute(
            "INSERT INTO metrics VALUES (?, ?, ?, ?, ?)",
            (int(step), *map(float, values), time.perf_counter()),
        )


def train(metrics: Metrics, steps: int) -> jax.Array:
    train_images, train_labels, test_images, test_labels = split_digits()

    @jax.jit
    def run(parameters: dict[str, jax.Array]) -> jax.Array:
        def step(
            parameters: dict[str, jax.Array], i: jax.Array
        ) -> tuple[dict, jax.Array]:
            value, gradient = jax.value_and_grad(loss)(
                parameters, train_images, train_labels
            )
            parameters = jax.tree.map(
                lambda p, g: p - g, parameters, gradient
            )
            callbax.io_callback(
                metrics.record,
                None,
                i,
                value,
                accuracy(parameters, train_images, train_labels),
                accuracy(parameters, test_images, test_labels),
                ordered=True,
            )
            return parameters, value

        _, losses = jax.lax.scan(step, parameters, jnp.arange(steps))
        return losses

    return run(initial_parameters())


@chapter.example(
    "split_digits", "initial_parameters", "scores", "loss", "accuracy"
)
def untrained() -> None:
    """The network.

    64 pixels, 32 hidden units, 10 digits. Before it has learnt anything, it is right about one time
    in ten.
    """
    _, _, images, labels = split_digits()
    guessed = accuracy(initial_parameters(), images, labels)
    print(f"{len(labels)} test images, accuracy {guessed:.3f}")
    assert guessed < 0.3


@chapter.example("Metrics", "train")
def trained() -> None:
    """Training, with its metrics in a database.

    The rows are read back by another connection. They are in the order of the steps, the losses are
    those that the program computed, and they were written at times spread over its run.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "metrics.sqlite")
        metrics = Metrics(path)
        losses = train(metrics, steps=100)
        callbax.effects_barrier()
        finished = time.perf_counter()
        metrics.connection.close()

        reader = sqlite3.connect(path)
        rows = reader.execute(
            "SELECT step, loss, written FROM metrics ORDER BY rowid"
        ).fetchall()
        table = reader.execute(
            "SELECT step + 1, loss, train, test,"
            " written - (SELECT min(written) FROM metrics)"
            " FROM metrics WHERE (step + 1) % 20 = 0 ORDER BY step"
        ).fetchall()
        reader.close()

    print("step    loss   train    test   written after")
    for step, *values, seconds in table:
        figures = "  ".join(f"{value:6.3f}" for value in values)
        print(f"{step:4d}  {figures}  {1e3 * seconds:8.0f} ms")
    written = [row[2] for row in rows]
    assert [row[0] for row in rows] == list(range(100))
    assert np.array_equal(
        np.array([row[1] for row in rows], np.float32), losses
    )
    assert written == sorted(written) and written[-1] < finished
    assert table[-1][3] > 0.9
