"""Progress: a bar for loops and steps of compiled programs, and the metrics that it shows."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp

import callbax
from callbax.tools import _displays
from callbax.tools._bars import bars
from callbax.tools._nesting import nesting


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a bar is called and how it is shown; its `step` reports from compiled code.

    Given to a loop of this module (`progress=`), the loop counts its own steps, and `step` adds
    metrics to its bar. Without such a loop each `step` is one step: in a loop of jax.lax's, or in a
    jitted function that Python calls again and again. Each run has a bar of its own, which begins
    with the first step and ends with `total`, or with the loop.

    Equal ones share their bars, so what is shown at the same time should have different labels.

    Args:
      total: how many steps there are, where no loop knows; None if nobody does.
      label: what the bar is called.
      display: "rich", "tqdm", "text" (lines, ever more seldom), "none", or "auto": widgets of tqdm's
        in notebooks, rich in terminals (tqdm if that is not installed), else lines of text.
      devices: under `shard_map` and `pmap`, the bar is of the "first" device, or of "each".

    Raises:
      ValueError: another display, or `devices`, or a negative total.
      TypeError: the total is not an integer, or the label not a string.
      ModuleNotFoundError: the display is not installed.

    >>> import jax, jax.numpy as jnp
    >>> from callbax import tools
    >>> progress = tools.Progress(label="train", display="text")
    >>> def step(x, _):
    ...     x = 0.5 * x
    ...     progress.step(loss=x)
    ...     return x, None
    >>> jax.jit(lambda x: tools.scan(step, x, length=4, progress=progress)[0])(1.0)
    Array(0.0625, dtype=float32, weak_type=True)
    """

    total: int | None = None
    label: str = ""
    display: _displays.DisplayName = "auto"
    devices: Literal["first", "each"] = dataclasses.field(default="first", kw_only=True)

    def __post_init__(self) -> None:
        if self.total is not None:
            if not hasattr(self.total, "__index__") or isinstance(self.total, bool):
                raise TypeError(f"total={self.total!r} is not an integer, nor None")
            object.__setattr__(self, "total", operator.index(self.total))
        if self.total is not None and self.total < 0:
            raise ValueError(f"total={self.total} is negative")
        if not isinstance(self.label, str):
            raise TypeError(f"label={self.label!r} is not a string")
        if self.devices not in ("first", "each"):
            raise ValueError(f"devices={self.devices!r} is not 'first' or 'each'")
        _displays.check(self.display)

    def step(self, **metrics: Any) -> None:
        """One step, from compiled code or outside of it, with metrics that the bar shows.

        In a loop with this Progress it only reports, in the steps in which the loop calls the host:
        all that take a millisecond, and some of the faster ones. Under `vmap` it is one report for
        all lanes, and a metric is shown as its mean and, in brackets, its range. Derivatives pass it
        by.

        Args:
          **metrics: real numbers, scalars for each lane.

        Raises:
          TypeError: a metric is not a real number, or is an array of several.
        """
        if self.display == "none":
            return
        values = {name: _metric(name, value) for name, value in metrics.items()}
        index, due = device_index(), nesting.due(self.key)
        shown = index if self.devices == "each" else None
        if due is None and index is not None and shown is None:
            due = index == 0
        if due is None:
            _report(self.key, shown, **values)
        else:
            jax.lax.cond(due, lambda: _report(self.key, shown, **values), lambda: None)

    def close(self) -> None:
        """Ends the bars whose steps `step` counts; others end with their loops."""
        bars.end_counted(self.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def title(self, device: int | None) -> str:
        """The label, for that device, in one line."""
        label = " ".join(self.label.splitlines())
        return label if device is None else f"{label} [{device}]".strip()

    @property
    def key(self) -> str:
        """Itself as text, by which programs name it."""
        return _write(self)

    @staticmethod
    @functools.lru_cache
    def read(key: str) -> Progress:
        """The one of that `key`."""
        total, label, display, devices = json.loads(key)
        return Progress(total, label, display, devices=devices)


@functools.lru_cache
def _write(progress: Progress) -> str:
    return json.dumps(list(dataclasses.astuple(progress)))


def as_progress(progress: str | bool | Progress | None) -> Progress | None:
    """What `progress=` of a loop means; None where nothing is shown."""
    if isinstance(progress, bool):
        progress = Progress() if progress else None
    elif isinstance(progress, str):
        progress = Progress(label=progress)
    elif not isinstance(progress, Progress | None):
        raise TypeError(
            f"progress={progress!r} is not a label, nor a Progress, nor True, False or None"
        )
    return None if progress is None or progress.display == "none" else progress


def device_index() -> Any:
    """In code that runs once for each device (`shard_map`, `pmap`): which one; elsewhere None."""
    axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    return jax.lax.axis_index(axes) if axes else None


def _metric(name: str, value: Any) -> Any:
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the metric {name} is not a number: {error}") from None
    if array.ndim or not (
        jnp.issubdtype(array.dtype, jnp.floating)
        or jnp.issubdtype(array.dtype, jnp.integer)
        or array.dtype == bool
    ):
        raise TypeError(
            f"the metric {name} is of type {array.dtype}{list(array.shape)}, but a real scalar is "
            "expected; reduce it, for example with .mean()"
        )
    return array


def _record(key: str, index: Any, /, **metrics: Any) -> None:
    """What `Progress.step` calls."""
    device = None if index is None else int(index.flat[0])
    run = bars.innermost.get((key, device))
    if run is not None and run.of_loop:
        run.metrics = metrics
        return
    with bars.guarded():
        if run is None:
            progress = Progress.read(key)
            run = bars.open(key, progress, progress.total, device=device, of_loop=False)
        run.metrics = metrics
        if run.state != "running":
            bars.begin(run)
        run.tick(run.done + 1)
        if run.done == run.total:
            bars.end(run)


_report = callbax.external(_record, result=None, effects="debug", vmap_method="expand_dims")
