"""What programs with progress call: a run opens, its steps are counted, it reports and ends.

In a program a run is a number, which `open_run` has given. With it comes the step at which the loop
shall call next, so that a call costs nothing at the steps between.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax.tools._bars import bars
from callbax.tools._nesting import nesting
from callbax.tools.progress import Progress, device_index

_INT = jax.ShapeDtypeStruct((), np.int32)
_NOBODY, _NEVER = 0, 2**31 - 1
_observe = functools.partial(callbax.external, effects="debug")


@functools.partial(_observe, result=(_INT, _INT), vmap_method="broadcast_all")
def open_run(key: str, level: Any, total: Any, index: Any) -> Any:
    """A new run; returns its number and the step of the first call."""
    shape, number, first = np.shape(level), _NOBODY, _NEVER
    with bars.guarded():
        progress = Progress.read(key)
        device = None if index is None else int(np.max(index))
        if not device or progress.devices == "each":
            run = bars.open(
                key,
                progress,
                None if total is None else int(np.max(total)),
                level=int(np.max(level)),
                device=device if progress.devices == "each" else None,
            )
            number, first = run.number, 0
    return np.full(shape, number, np.int32), np.full(shape, first, np.int32)


@functools.partial(_observe, result=_INT, vmap_method="broadcast_all")
def tick(number: Any, steps: Any) -> Any:
    """So many steps are done, of the lane that is furthest; returns the step of the next call."""
    following = _NEVER
    with bars.guarded():
        run = bars.find(int(number.flat[0]))
        if run is not None:
            if run.state != "running":
                bars.begin(run)
            following = run.tick(int(steps.max()))
    return np.full(steps.shape, following, np.int32)


@functools.partial(_observe, result=None, vmap_method="expand_dims")
def end_run(number: Any, following: Any, steps: Any) -> None:
    """The loop has ended after so many steps; it has returned `following`, so it is not running."""
    with bars.guarded():
        run = bars.find(int(number.flat[0]))
        if run is not None:
            run.done = int(steps.max())
            bars.end(run)


class Counter:
    """The part of a loop that counts its steps: a state, and what happens to it in each step.

    Attributes:
      start: the state in which the loop begins: the steps done, and the step of the next call.
    """

    def __init__(self, progress: Progress, total: Any):
        level = np.int32(nesting.level)
        total = None if total is None else jnp.asarray(total, jnp.int32)
        self._key = progress.key
        self._number, first = open_run(self._key, level, total, device_index())
        self.start = jnp.int32(0), first

    @contextlib.contextmanager
    def step(self, state: Any) -> Iterator[Any]:
        """Around the step that the loop is about to do; gives the state after it."""
        steps, following = state
        due = steps >= following
        following = jax.lax.cond(due, lambda: tick(self._number, steps), lambda: following)
        with nesting.inside(self._key, due):
            yield steps + 1, following

    def end(self, state: Any) -> None:
        """After the loop, which has ended in that state."""
        steps, following = state
        end_run(self._number, following, steps)
