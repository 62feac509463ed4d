"""What id_print calls."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from callbax._host.function import Hashable
from callbax._host_callback.functions import Transforms
from callbax._jax.host_callback import layout
from callbax._runtime import threads
from callbax._runtime.wrapper import Wrapper

# The lines of one print stay together. A stream is the user's: what it writes to may print again.
_lock = threads.new_lock(reentrant=True)


@dataclasses.dataclass(frozen=True)
class Printer(Wrapper):
    """A tap function that prints. Equal for equal options: nothing is traced twice.

    Attributes:
      stream: what has `write`; None for standard output.
      threshold: of `numpy.array2string`.
      shown: names and values for the line in front.
    """

    stream: Hashable
    threshold: int | None
    shown: tuple[tuple[str, Hashable], ...]

    @property
    def description(self) -> str:
        return "id_print(" + ", ".join(f"{k}={v.value!r}" for k, v in self.shown) + ")"

    def __call__(self, arg: Any, transforms: Transforms, *, device: Any = None) -> None:
        pairs = {name: value.value for name, value in self.shown}
        if transforms:
            pairs["transforms"] = [
                (name, params) if params else name for name, params in transforms
            ]
        if device is not None:
            pairs["device"] = device
        lines = [" ".join(f"{name}: {pairs[name]}" for name in sorted(pairs))] if pairs else []
        lines.append(layout(arg, self._show))
        with _lock:
            for line in lines:
                (self.stream.value or sys.stdout).write(line + "\n")

    def _show(self, leaf: Any) -> str:
        if not isinstance(leaf, np.ndarray):
            return str(leaf)
        return np.array2string(leaf, threshold=self.threshold)
