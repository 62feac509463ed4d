"""Log: metrics out of compiled code, written to a target by a thread of its own."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import callbax
from callbax.tools._log_rows import Columns
from callbax.tools._log_targets import LogError as LogError
from callbax.tools._log_targets import describe_target, opener
from callbax.tools._log_writer import Writer
from callbax.tools._places import add_note


class Log:
    """Writes metrics from compiled code to a file, a database, a dashboard, a logger or a function.

    `log(step, loss=loss)` works wherever JAX code is traced: in jit, scan, while_loop, cond, grad,
    checkpoint, vmap, shard_map. Rows keep the program's order. Each call is one row, whatever derivatives
    are taken of the code around it. A batch of `vmap` is one row, too, with a column for each lane:
    `loss[0]`, `loss[1]`. Where each device runs the program on its own, each writes its rows.

    A thread of the log's own writes the rows; compiled code only hands them over. They are written
    within about a tenth of a second, and before `flush` and `callbax.effects_barrier` return and the
    process ends, by an exception or Ctrl-C, too.

    If the target fails, the next barrier or `flush` raises a `LogError`. The rows are kept; the next
    `flush` tries again, and `discard` gives them up.

    Args:
      target: where the rows go.

        - A path that ends in ".csv" (`w[0]`, `w[1]`, ... are the elements of an array), ".jsonl" (one
          JSON object a line), or ".sqlite", ".sqlite3" or ".db" (the table "log"). New metrics are new
          columns.
        - A TensorBoard writer, or anything with a method `add_scalar(name, value, step)`.
        - A run of Weights & Biases, or anything with a method `log(row, step=step)`.
        - A `logging.Logger`, which gets a line for each row, at level INFO.
        - Any function of a row: a dict of "step" and the metrics, with Python numbers, and NumPy arrays
          for what is not a scalar in the program. It is always called on the same thread.
      mode: of a file or database: "a" appends to what is there, "w" replaces it.
      capacity: how many rows may wait to be written; fewer, if they are large (256 MB together).
      when_full: "block": the program waits for the writer. "drop": the oldest row is dropped; `dropped`
        counts them.

    Raises:
      TypeError: the target is none of these; `capacity` is not an integer.
      ValueError: a path with another ending; another `mode` or `when_full`; `capacity` below 1.
      FileNotFoundError: the path's directory does not exist.

    >>> import jax, jax.numpy as jnp
    >>> from callbax import tools
    >>> rows = []
    >>> log = tools.Log(rows.append)
    >>> def step(x, i):
    ...     log(i, loss=x**2)
    ...     return x / 2, None
    >>> x, _ = jax.lax.scan(step, 1.0, jnp.arange(2))
    >>> log.close()
    >>> rows
    [{'step': 0, 'loss': 1.0}, {'step': 1, 'loss': 0.25}]
    """

    def __init__(
        self,
        target: Any,
        *,
        mode: Literal["a", "w"] = "a",
        capacity: int = 16384,
        when_full: Literal["block", "drop"] = "block",
    ):
        if mode not in ("a", "w"):
            raise ValueError(f"mode must be 'a' or 'w', but is {mode!r}")
        if when_full not in ("block", "drop"):
            raise ValueError(f"when_full must be 'block' or 'drop', but is {when_full!r}")
        capacity = operator.index(capacity)
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, but is {capacity}")
        name = f"Log({describe_target(target)})"
        self._writer = Writer(opener(target, mode), name, capacity, when_full == "drop")
        self._recorders: dict[Columns, Any] = {}
        # Programs keep the log. When the last is gone, the thread writes what is left, and ends.
        self._end = weakref.finalize(self, self._writer.end)
        self._end.atexit = False

    def __call__(self, step: Any, **metrics: Any) -> None:
        """Logs a row.

        Args:
          step: a number.
          **metrics: arrays, numbers and strings, or pytrees of them: `train={"loss": ...}` is the
            column `train/loss`.

        Raises:
          TypeError: a metric of another type.
          ValueError: the step is not a scalar; a metric is called "step".
          LogError: the log is closed, or it is full and its target fails; from compiled code it comes
            as any exception of a callback.
        """
        columns, values = Columns.of(self._writer.name, step, metrics)
        recorder = self._recorders.get(columns)
        if recorder is None:
            recorder = self._recorders[columns] = self._recorder(columns)
        recorder(*values)

    def flush(self) -> None:
        """Waits until all rows so far are written.

        Raises:
          LogError: the target has failed; its exception is the cause.
        """
        self._writer.flush()

    def discard(self) -> list[dict[str, Any]]:
        """Gives up the rows that are not written yet; returns them."""
        return self._writer.discard()

    def close(self) -> None:
        """Flushes, ends the thread, and closes what it has opened. Later calls are errors.

        Raises:
          LogError: as `flush`; the log stays open then.
        """
        self._writer.close()

    @property
    def dropped(self) -> int:
        """How many rows have been dropped because the log was full."""
        return self._writer.dropped

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except LogError as second:
            add_note(error, f"The log failed as well: {second}")

    def __repr__(self) -> str:
        return f"<{self._writer.name}>"

    def _recorder(self, columns: Columns) -> Callable[..., None]:
        """What compiled code calls for rows of these columns; it keeps the log."""
        log, append = self, self._writer.rows.append
        call = self._writer.add_call(columns)

        def record(*values: Any) -> None:
            if append(call, values):
                log._writer.attend()

        record.__name__ = record.__qualname__ = self._writer.name
        return callbax.external(
            record, result=None, effects="ordered_debug", vmap_method="expand_dims"
        )
