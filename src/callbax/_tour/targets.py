"""The speed that callbax promises, and whether a set of measurements reaches it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from callbax._tour.measure import Measurement, format_seconds

Results = Mapping[str, Measurement]


@dataclasses.dataclass(frozen=True)
class Target:
    """A promise about one case. `value` takes its measurement; the promise is about its size."""

    promise: str
    case: str
    contenders: tuple[str, ...]
    value: Callable[[Measurement], float]
    limit: float
    at_least: bool = False

    def can_be_checked(self, results: Results) -> bool:
        return self.case in results and all(
            name in results[self.case].samples for name in self.contenders
        )

    def row(self, results: Results) -> tuple[str, str, str]:
        value = self.value(results[self.case])
        holds = value >= self.limit if self.at_least else value <= self.limit
        is_time = self.limit < 1e-3
        return (
            self.promise,
            format_seconds(value) if is_time else f"{value:.2f}×",
            ("yes" if holds else "NO"),
        )


def _net(measurement: Measurement) -> float:
    return measurement.net("callbax").median


def _faster_than(name: str) -> Callable[[Measurement], float]:
    return lambda measurement: measurement.ratio(name, "callbax")


def _faster(promise: str, case: str, other: str, limit: float) -> Target:
    return Target(promise, case, (other,), _faster_than(other), limit, at_least=True)


def _at_most(promise: str, case: str, limit: float) -> Target:
    return Target(promise, case, (), _net, limit)


TARGETS = (
    _faster("scan step: ≥ 60× less than JAX's pure_callback", "scan", "jax.*", 60),
    _at_most("scan step: ≤ 1 µs", "scan", 1e-6),
    _faster("scan step: below jax-tvm-ffi with a Python callee", "scan", "jax-tvm-ffi", 1),
    _faster("scan step, NumPy: below jax-tvm-ffi's", "scan, NumPy", "jax-tvm-ffi", 1),
    _faster("ordered io in scan: ≥ 60× less than jax's", "scan, ordered", "jax.*", 60),
    _at_most("vmap, sequential: ≤ 1 µs a lane", "vmap", 1e-6),
    _at_most("jitted call: ≤ 2 µs above the same without", "jit", 2e-6),
    _at_most("io: ≤ 3 µs above JAX's effectful dispatch", "jit, io", 3e-6),
    _at_most("ordered io: ≤ 3 µs above JAX's effectful dispatch", "jit, ordered io", 3e-6),
    _at_most("debug.callback: ≤ 3 µs above JAX's effectful dispatch", "jit, debug", 3e-6),
    _faster("64 MiB in and out: ≥ 2× faster than JAX's pure_callback", "64 MiB", "jax.*", 2),
    Target(
        "64 MiB in and out: within 1.5× of its two copies",
        "64 MiB",
        ("memcpy, twice",),
        lambda measurement: measurement.ratio("callbax", "memcpy, twice"),
        1.5,
    ),
)
