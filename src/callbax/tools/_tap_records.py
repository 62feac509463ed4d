"""What taps have seen, brought into the order of the program.

On one device values come in order. Devices that run a program each for itself come when they come:
their n-th values of a name belong together, and have the place of the first of them to come. A gradient
has the place of its value: backward passes meet values in the opposite order, so it is the last one
that has no gradient yet. The lock guards all of this; it is never held while other code runs.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from callbax import debug

Place = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Record:
    """A value or a gradient that a program has passed.

    Attributes:
      place: the order of records.
      live: the mask of its lanes.
    """

    place: Place
    value: Any
    live: np.ndarray[Any, np.dtype[np.bool_]]


def in_order(records: Sequence[Record]) -> list[Record]:
    """Records as the program has passed them."""
    return sorted(records, key=lambda record: record.place)


class Records:
    """Values and gradients by name."""

    def __init__(self) -> None:
        self.values: dict[str, list[Record]] = {}
        self.gradients: dict[str, list[Record]] = {}
        self._lock = threading.Lock()
        self._arrivals = 0
        # By name, number of devices and device: how many values have come, and the places of those
        # that have no gradient yet. By the first two and such a count: the first to arrive.
        self._counts: defaultdict[Any, int] = defaultdict(int)
        self._open: defaultdict[Any, list[Place]] = defaultdict(list)
        self._first: dict[Any, int] = {}

    def add_value(self, name: str, batch: debug.Batch, value: Any) -> None:
        with self._lock:
            place = self._next_place(name, batch)
            self._open[_source(name, batch)].append(place)
            self.values.setdefault(name, []).append(Record(place, value, batch.live))

    def add_gradient(self, name: str, batch: debug.Batch, gradient: Any) -> None:
        with self._lock:
            waiting = self._open[_source(name, batch)]
            place = waiting.pop() if waiting else self._next_place(name, batch)
            self.gradients.setdefault(name, []).append(Record(place, gradient, batch.live))

    def _next_place(self, name: str, batch: debug.Batch) -> Place:
        self._arrivals += 1
        if batch.devices == 1:
            return self._arrivals, 0
        source = _source(name, batch)
        count = self._counts[source]
        self._counts[source] += 1
        return self._first.setdefault((name, batch.devices, count), self._arrivals), source[-1]


def _source(name: str, batch: debug.Batch) -> tuple[str, int, int]:
    # One device has one order; whether it is known differs between compiled code and what runs directly.
    device = None if batch.devices == 1 else batch.device
    return name, batch.devices, -1 if device is None else device.id
