"""Measuring several ways of doing the same work, beside each other.

A shared machine changes its speed from second to second, so the contenders take turns, and what is
compared is taken from the same round: the cost of a callback is the difference between a program
with it and the same program without it that ran just before or after.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

BASELINE = "without callback"


@dataclasses.dataclass(frozen=True)
class Case:
    """One piece of work, done by several contenders.

    Attributes:
      title: what the work is.
      per: what the time is divided by: "step", "call", "lane", "print".
      calls: how many of them one run of a contender has.
      contenders: by name. One named BASELINE is the same program without the callback.
    """

    title: str
    per: str
    calls: int
    contenders: Mapping[str, Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds: the quartiles of all rounds."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, samples: list[float]) -> Timing:
        lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(lower, median, upper)

    @property
    def is_above_noise(self) -> bool:
        """Whether it differs from nothing by more than from round to round."""
        return self.median > (self.upper - self.lower) / 2


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Samples of a case, in seconds for each of its calls; position i of all is round i."""

    case: Case
    samples: Mapping[str, list[float]]

    def total(self, name: str) -> Timing:
        return Timing.of(self.samples[name])

    def net(self, name: str) -> Timing:
        """The time above the baseline's, if the case has one and the contender runs in XLA."""
        baseline = self.samples.get(BASELINE)
        if baseline is None or not includes_baseline(name):
            return self.total(name)
        own = self.samples[name]
        return Timing.of([a - b for a, b in zip(own, baseline, strict=True)])

    def ratio(self, name: str, other: str) -> float:
        """How many times as long `name` takes, net, as `other` does."""
        return self.net(name).median / self.net(other).median


def includes_baseline(name: str) -> bool:
    """Whether the contender's time has the time of the program around it in it."""
    return not name.startswith(("Python loop", "memcpy"))


def measure(case: Case, seconds: float) -> Measurement:
    """Runs the contenders in turn, for about that long, but for at least 5 rounds."""
    for run in case.contenders.values():  # compiles, and touches the memory
        run()
    samples: dict[str, list[float]] = {name: [] for name in case.contenders}
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = time.perf_counter() + seconds
        rounds = 0
        while rounds < 5 or time.perf_counter() < deadline:
            for name, run in case.contenders.items():
                start = time.perf_counter()
                run()
                samples[name].append((time.perf_counter() - start) / case.calls)
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return Measurement(case, samples)


def format_seconds(seconds: float) -> str:
    """
    >>> format_seconds(3.21e-7), format_seconds(4.56e-5), format_seconds(0.0789)
    ('0.321 µs', '45.6 µs', '78.9 ms')
    """
    value, unit = seconds * 1e6, "µs"
    if abs(value) >= 1000:
        value, unit = value / 1000, "ms"
    decimals = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{value:.{decimals}f} {unit}"


def format_timing(timing: Timing) -> str:
    """
    >>> format_timing(Timing(4e-7, 5e-7, 6e-7)), format_timing(Timing(-1e-6, 1e-7, 1e-6))
    ('0.500 µs ± 20%', '< noise (1.00 µs)')
    """
    spread = (timing.upper - timing.lower) / 2
    if not timing.is_above_noise:
        return f"< noise ({format_seconds(spread)})"
    return f"{format_seconds(timing.median)} ± {spread / timing.median:.0%}"
