"""tap and collect: intermediate values and gradients out of compiled code.

A tap is a part of a program only where that is traced in a `collect` block. So it costs nothing
elsewhere, and a function that was compiled before is traced again in its first block. The block is a
part of the key of JAX's caches: a thread that collects has a *slot*, the lowest number that is free,
and programs hold it. So two threads that collect at once have programs of their own, while blocks
that follow each other have the same, each filled at run time by whoever has the slot.

The lock guards the slots.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Never

import jax
import numpy as np

from callbax import debug, effects_barrier
from callbax.tools._tap_records import Record, Records, in_order

_lock = threading.Lock()
# By slot: what collects in it, the outermost first. Guarded by _lock.
_collecting: dict[str, list[Taps]] = {}
# JAX's context that holds the slot of a thread. Made at the first use, since another part of the key of
# JAX's caches is one that no program so far has.
_context: Any = None


def _slot() -> str | None:
    """The slot of the thread whose code is traced, if it collects."""
    return None if _context is None else _context.value


def tap(x: Any, name: str) -> Any:
    """`x`, which a `collect` block around the program sees under this name, with its gradient.

    Outside of such blocks it is no part of the program: nothing is computed, copied or called.

    Args:
      x: a pytree of arrays. Leaves that are not arrays are seen as they are.
      name: what it is called. Taps of one name share a list.

    Returns:
      `x`. To have its gradient, use what is returned.

    Raises:
      TypeError: `name` is not a string.

    >>> import jax
    >>> @jax.jit
    ... def f(x):
    ...     h = tap(jax.numpy.sin(x), "h")
    ...     return h**2
    >>> with collect() as taps:
    ...     slope = jax.grad(f)(0.0)
    >>> taps["h"], taps.gradients["h"]
    ([array(0., dtype=float32)], [array(0., dtype=float32)])
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a tap is a string, but it got {name!r}")
    slot = _slot()
    if slot is None:
        return x
    debug.watch(_receive, slot, name, x, ordered=True)
    return debug.on_gradient(x, _GradientTap(slot, name))


@dataclasses.dataclass(frozen=True)
class _GradientTap:
    """What sees the gradient of a tap: equal for equal taps, so that their programs are shared."""

    slot: str
    name: str

    def __call__(self, gradient: Any) -> None:
        debug.watch(_receive_gradient, self.slot, self.name, gradient, ordered=True)


def _receive(batch: debug.Batch, slot: str, name: str, x: Any) -> None:
    for taps in _those_collecting(slot):
        taps._records.add_value(name, batch, x)


def _receive_gradient(batch: debug.Batch, slot: str, name: str, gradient: Any) -> None:
    for taps in _those_collecting(slot):
        taps._records.add_gradient(name, batch, gradient)


def _those_collecting(slot: str) -> list[Taps]:
    """Nobody, if a program that was traced in a block is called outside of it."""
    with _lock:
        return list(_collecting.get(slot, ()))


class Taps(Mapping[str, list[Any]]):
    """The values that passed the taps in a `callbax.tools.collect` block: by name, a list in order.

    A value has the structure that the tap was given, with NumPy arrays. A loop gives one value a step;
    a batch, one for all lanes, with their axes in front, the outermost first; and on several devices
    that run the program each for itself, one for each device, in the order of their numbers.

    Attributes:
      gradients: by name, the gradients with respect to these values, in the same order, if backward
        passes come in the opposite order of their forward passes, as in `jax.grad`. It has no entry
        for a value that no backward pass has reached.
      live: by name, for each value a mask of its lanes. False are those that JAX has computed
        only because others needed it, in a condition or loop under `vmap`.

    >>> import jax
    >>> from callbax import tools
    >>> slope = jax.grad(lambda x: tools.tap(2 * x, "twice") ** 2)
    >>> with tools.collect() as taps:
    ...     _ = slope(3.0)
    >>> taps["twice"], taps.gradients["twice"]
    ([array(6., dtype=float32)], [array(12., dtype=float32)])
    """

    def __init__(self) -> None:
        self._records = Records()
        self.gradients: Mapping[str, list[Any]] = _View(self._records.gradients, "value")
        self.live: Mapping[str, list[Any]] = _View(self._records.values, "live")
        self._view = _View(self._records.values, "value")

    def __getitem__(self, name: str) -> list[Any]:
        return self._view[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._view)

    def __len__(self) -> int:
        return len(self._view)

    def stacked(self, name: str) -> Any:
        """The values of one name, stacked along a new first axis: of a loop, its steps.

        Raises:
          KeyError: there is none.
          ValueError: they do not have the same shape.
        """
        return jax.tree.map(lambda *leaves: np.stack(leaves), *self[name])


class _View(Mapping[str, list[Any]]):
    """One part of records, by name."""

    def __init__(self, by_name: dict[str, list[Record]], part: str):
        self._by_name = by_name
        self._part = part

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._by_name:
            known = ", ".join(map(repr, sorted(self._by_name))) or "none"
            raise KeyError(f"no tap of the name {name!r} has been passed; there are: {known}")
        return [getattr(record, self._part) for record in in_order(self._by_name[name])]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return repr(dict(self))


class collect:
    """A block that sees the taps of all programs that its thread calls: `with collect() as taps`.

    A program that has not been called in such a block before is traced and compiled anew, with its
    taps; both programs then stay in JAX's caches. At its end the block waits for effects. Blocks may be
    nested: each sees all that happens in it.

    What it does not see: programs that were compiled ahead of time, or exported, outside of a block;
    those that other threads call; and those of a block before it that are still running.

    >>> import jax
    >>> @jax.jit
    ... def powers(x):
    ...     return jax.lax.scan(lambda c, _: (tap(c * x, "power"), None), 1.0, length=3)[0]
    >>> powers(2.0)
    Array(8., dtype=float32, weak_type=True)
    >>> with collect() as taps:
    ...     y = powers(2.0)
    >>> taps.stacked("power")
    array([2., 4., 8.], dtype=float32)
    """

    def __init__(self, *unexpected: Never) -> None:
        if unexpected:
            raise TypeError(
                "callbax.tools.collect takes no arguments, and is no decorator: `with tools.collect() as "
                "taps:` gives the taps of what is called in the block"
            )
        self._entered: list[tuple[Taps, str]] = []  # one object may be used for nested blocks

    def __enter__(self) -> Taps:
        global _context
        taps = Taps()
        with _lock:
            if _context is None:
                _context = jax.make_user_context(None)
            slot = _context.value
            if slot is None:
                slot = next(
                    str(n) for n in range(len(_collecting) + 1) if str(n) not in _collecting
                )
            _collecting.setdefault(slot, []).append(taps)
        _context(slot).__enter__()
        self._entered.append((taps, slot))
        return taps

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        taps, slot = self._entered.pop()
        try:
            if error is None:
                effects_barrier()
        finally:
            with _lock:
                # By identity: those that have seen the same are equal.
                left = [other for other in _collecting.pop(slot) if other is not taps]
                if left:
                    _collecting[slot] = left
            # Not what the context was before: blocks of coroutines may end in any order.
            _context(slot if left else None).__enter__()
