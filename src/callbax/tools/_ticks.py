"""What programs with progress call: a run opens, its steps are counted, it reports and ends.

In a program a run is a number, which `open_run` has given. With it comes the step at which the loop
shall call next, so that a call costs nothing at the steps between. Steps are counted in 32 bits, modulo
2**32; the host knows the rest.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax.tools._bars import bars
from callbax.tools._nesting import nesting
from callbax.tools._progress import Progress, device_index
from callbax.tools._runs import Run

_INT = jax.ShapeDtypeStruct((), np.int32)
_NOBODY = 0
_SELDOM = 2**31 - 1  # the furthest that a next call may be away
_MOST = 2**24  # that are done between two calls; a lane that seems to be further is behind
_observe = functools.partial(callbax.external, effects="debug")


@functools.partial(_observe, result=(_INT, _INT), vmap_method="broadcast_all")
def open_run(key: str, level: Any, steps: Any, index: Any) -> Any:
    """A new run; returns its number and the step of the first call."""
    shape, number, first = np.shape(level), _NOBODY, _SELDOM
    if 0 in shape:
        return level, level  # no lane begins
    with bars.guarded():
        progress = Progress.read(key)
        device = None if index is None else int(np.max(index))
        if not device or progress.devices == "each":
            run = bars.open(
                key,
                progress,
                _total(steps),
                level=int(np.max(level)),
                device=device if progress.devices == "each" else None,
            )
            number, first = run.number, 0
    return np.full(shape, number, np.int32), np.full(shape, first, np.int32)


def _total(steps: Any) -> int | None:
    """Of the lane that has most, for what a Counter was given."""
    if steps is None:
        return None
    if isinstance(steps, range):
        return max(0, steps.stop - steps.start)
    lower, upper = (np.asarray(bound).astype(object) for bound in steps)  # as Python's integers
    return int(np.max(upper - lower, initial=0))


@functools.partial(_observe, result=_INT, vmap_method="broadcast_all")
def tick(number: Any, steps: Any) -> Any:
    """So many steps are done, of the lane that is furthest; returns the step of the next call."""
    following = (int(steps.max()) if steps.size else 0) + _SELDOM
    with bars.guarded():
        run = _found(number)
        if run is not None:
            if run.state != "running":
                bars.begin(run)
            following = run.tick(_done(run, steps))
    return np.full(steps.shape, _in_32_bits(following), np.int32)


def _found(number: Any) -> Run | None:
    return bars.find(int(number.flat[0])) if number.size else None


def _done(run: Run, steps: Any) -> int:
    """How many steps are done in the lane that is furthest."""
    if steps.size == 1:
        since = (steps.item() - run.done) % 2**32
        return run.done + (since if since < _MOST else 0)
    each = (steps.astype(np.int64) - run.done) % 2**32
    return run.done + int(each.max(where=each < _MOST, initial=0))


def _in_32_bits(number: int) -> int:
    return (number + 2**31) % 2**32 - 2**31


@functools.partial(_observe, result=None, vmap_method="expand_dims")
def end_run(number: Any, following: Any, steps: Any) -> None:
    """The loop has ended after so many steps; it has returned `following`, so it is not running."""
    with bars.guarded():
        run = _found(number)
        if run is not None:
            run.done = _done(run, steps)
            bars.end(run)


class Counter:
    """The part of a loop that counts its steps: a state, and what happens to it in each step.

    It is a context manager around the making of the loop, and, outside of programs, its run.

    Args:
      steps: the lower and upper bound of the loop, or None if they are not known.

    Attributes:
      start: the state in which the loop begins: the steps done, and the step of the next call.
    """

    def __init__(self, progress: Progress, steps: tuple[Any, Any] | None):
        level = np.int32(nesting.level)
        self._key = progress.key
        known = steps is not None and all(isinstance(bound, int) for bound in steps)
        given = range(*steps) if steps is not None and known else jax.tree.map(jnp.asarray, steps)
        self._number, first = open_run(self._key, level, given, device_index())
        self.start = jnp.int32(0), first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not isinstance(self._number, jax.core.Tracer):
            with bars.guarded():
                bars.leave(int(self._number))

    @contextlib.contextmanager
    def step(self, state: Any) -> Iterator[Any]:
        """Around the step that the loop is about to do; gives the state after it."""
        steps, following = state
        due = steps - following >= 0  # both are modulo 2**32
        following = jax.lax.cond(due, lambda: tick(self._number, steps), lambda: following)
        with nesting.inside(self._key, due):
            yield steps + 1, following

    def end(self, state: Any) -> None:
        """After the loop, which has ended in that state."""
        steps, following = state
        end_run(self._number, following, steps)
