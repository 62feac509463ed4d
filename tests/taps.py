"""A tap that remembers what it was called with."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from helpers import plain

from callbax import host_callback


class Taps:
    """What taps and calls have seen: pairs of a value and the transforms, as Python's own objects."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def tap(self, arg: Any, **options: Any) -> Any:
        return host_callback.id_tap(self._note, arg, **options)

    def call(self, arg: Any) -> Any:
        """A host function that gives back what it gets."""
        return host_callback.call(self._note_call, arg, result_shape=arg)

    def values(self) -> list[Any]:
        """The values that have been seen, once all programs have ended."""
        host_callback.barrier_wait()
        return [value for value, _ in self.seen]

    def all(self) -> list[Any]:
        host_callback.barrier_wait()
        return self.seen

    def _note(self, arg: Any, transforms: Any) -> None:
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(arg))
        self.seen.append((plain(arg), transforms))

    def _note_call(self, arg: Any) -> Any:
        self.seen.append((plain(arg), "call"))
        return arg


def batch(*dims: int | None) -> Any:
    return ("batch", {"batch_dims": dims})


TRANSPOSE = ("transpose", {})
