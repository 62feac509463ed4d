"""The benchmark tables, and the small one at the end of the tour."""

from __future__ import annotations

import os
import platform
import statistics
import time

import jax

from callbax._tour import information
from callbax._tour.cases import CASES, QUICK
from callbax._tour.measure import (
    BASELINE,
    Measurement,
    format_seconds,
    format_timing,
    includes_baseline,
    measure,
)
from callbax._tour.pages import Page
from callbax._tour.peers import available_peers, jax_callbacks, ours
from callbax._tour.targets import TARGETS

READING = """
Medians of interleaved rounds in one process, with the first and third quartile. "net" is the time
above the same program without the callback, which ran in the same round; "× callbax" compares the
net times, so that 50× means fifty times as long as callbax takes.
"""


def run_benchmark(page: Page, quick: bool) -> None:
    """Measures every case and prints its table; `quick` takes some seconds, else some minutes."""
    page.title("callbax, measured")
    page.paragraph(READING)
    page.paragraph(_machine())
    peers, missing = available_peers()
    for line in missing:
        page.paragraph(line)
    results = {}
    with jax.default_device(jax.devices("cpu")[0]):
        for name in QUICK if quick else CASES:
            results[name] = measure(CASES[name](peers), seconds=0.5 if quick else 6)
            _show(page, results[name])
    rows = [target.row(results) for target in TARGETS if target.can_be_checked(results)]
    page.table(("promise", "measured", "holds"), rows, "What callbax promises")
    page.paragraph(_noise(list(results.values())))


def run_small_table(page: Page) -> None:
    """callbax beside JAX's own callbacks, in a few seconds."""
    rows = []
    with jax.default_device(jax.devices("cpu")[0]):
        for name in QUICK:
            measurement = measure(CASES[name]([ours(), jax_callbacks()]), seconds=0.5)
            own, jax_own = (measurement.net(peer) for peer in ("callbax", "jax.*"))
            rows.append(
                (
                    f"{measurement.case.title}, per {measurement.case.per}",
                    format_timing(own),
                    format_timing(jax_own),
                    f"{jax_own.median / own.median:.0f}×" if own.is_above_noise else "",
                )
            )
    page.table(("", "callbax", "jax.*", "ratio"), rows, "")


def _show(page: Page, measurement: Measurement) -> None:
    has_baseline = BASELINE in measurement.samples
    rows = []
    for name in measurement.samples:
        total = measurement.total(name)
        row = [
            name,
            format_seconds(total.median),
            f"{format_seconds(total.lower)} – {format_seconds(total.upper)}",
        ]
        if has_baseline:
            row.append("" if name == BASELINE else format_seconds(measurement.net(name).median))
        row.append("" if name == BASELINE else f"{measurement.ratio(name, 'callbax'):.3g}×")
        rows.append(row)
    columns = [f"per {measurement.case.per}", "median", "quartiles"]
    columns += ["net", "× callbax"] if has_baseline else ["× callbax"]
    page.table(columns, rows, measurement.case.title)


def _machine() -> str:
    versions = ", ".join(f"{name} {version}" for name, version in information.versions())
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{time.strftime('%Y-%m-%d')}; {versions}; {information.processor()}, "
        f"{os.cpu_count()} cores, {platform.system()}; load average before: {load}."
    )


def _noise(measurements: list[Measurement]) -> str:
    timings = [
        m.total(name) for m in measurements for name in m.samples if not includes_baseline(name)
    ]
    spreads = [(timing.upper - timing.lower) / timing.median for timing in timings]
    return (
        "How quiet the machine was: the quartiles of the loops and copies, which have no JAX in "
        f"them, lie {statistics.median(spreads):.0%} of the median apart, at most "
        f"{max(spreads):.0%}."
    )
