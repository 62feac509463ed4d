"""The speed that callbax promises, and whether a set of measurements reaches it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from callbax._tour.measure import Measurement, format_seconds

Results = Mapping[str, Measurement]


@dataclasses.dataclass(frozen=True)
class Target:
    """A promise about callbax in one case: its net time in seconds, or a ratio to another contender's.

    Attributes:
      limit: what the time must not exceed; with `slower`, what the other's time, by callbax's, must
        reach; with `faster`, what callbax's, by the other's, must not exceed.
      slower, faster: the other contender.
    """

    promise: str
    case: str
    limit: float
    slower: str = ""
    faster: str = ""

    def can_be_checked(self, results: Results) -> bool:
        other = self.slower or self.faster or "callbax"
        return self.case in results and other in results[self.case].samples

    def row(self, results: Results) -> tuple[str, str, str]:
        measured = results[self.case]
        if self.slower:
            value = measured.ratio(self.slower, "callbax")
        elif self.faster:
            value = measured.ratio("callbax", self.faster)
        else:
            value = measured.net("callbax").median
        holds = value >= self.limit if self.slower else value <= self.limit
        is_ratio = self.slower or self.faster
        shown = f"{value:.2f}×" if is_ratio else format_seconds(value)
        return self.promise, shown, "yes" if holds else "NO"


TARGETS = (
    Target("scan step: ≥ 60× less than JAX's pure_callback", "scan", 60, slower="jax.*"),
    Target("scan step: ≤ 1 µs", "scan", 1e-6),
    Target("scan step: below jax-tvm-ffi with a Python callee", "scan", 1, slower="jax-tvm-ffi"),
    Target("scan step, NumPy: below jax-tvm-ffi's", "scan, NumPy", 1, slower="jax-tvm-ffi"),
    Target("ordered io in scan: ≥ 60× less than jax's", "scan, ordered", 60, slower="jax.*"),
    Target("vmap, sequential: ≤ 1 µs a lane", "vmap", 1e-6),
    Target("jitted call: ≤ 2 µs above the same without", "jit", 2e-6),
    Target("io: ≤ 3 µs above the same without", "jit, io", 3e-6),
    Target("ordered io: ≤ 5 µs above the same without", "jit, ordered io", 5e-6),
    Target("debug.callback: ≤ 3 µs above the same without", "jit, debug", 3e-6),
    Target("64 MiB in and out: ≥ 2× faster than JAX's pure_callback", "64 MiB", 2, slower="jax.*"),
    Target(
        "64 MiB in and out: within 1.5× of its two copies", "64 MiB", 1.5, faster="memcpy, twice"
    ),
)
