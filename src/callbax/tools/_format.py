"""Progress as text: counts, times, rates and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from callbax.tools._runs import Run


def line(run: Run) -> str:
    """All that is known of a run, without a bar: for logs and pipes."""
    label = f"{run.progress.title(run.device)}:" if run.progress.title(run.device) else ""
    parts = [label, percent(run), count(run), times(run), rate(run), metrics(run), state(run)]
    return "  ".join(part for part in parts if part)


def percent(run: Run) -> str:
    return "" if run.fraction is None else f"{100 * run.fraction:.0f}%"


def count(run: Run) -> str:
    if run.total is None:
        return f"{run.done} step{'s' * (run.done != 1)}"
    return f"{run.done}/{run.total}"


def times(run: Run) -> str:
    """The time so far and, if it can be told, the time that remains."""
    remaining = run.remaining
    if run.has_ended or remaining is None:
        return duration(run.elapsed)
    return f"{duration(run.elapsed)}<{duration(remaining)}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate(run: Run) -> str:
    speed = run.rate
    if speed is None:
        return ""
    if speed < 1:
        return f"{1 / speed:.3g} s/it"
    for unit in ("", "k", "M"):
        if speed < 999.5 or unit == "M":
            break
        speed /= 1000
    return f"{speed:.3g}{unit} it/s"


def metrics(run: Run) -> str:
    shown = (f"{name}={number(value)}" for name, value in list(run.metrics.items()))
    return " ".join("  ".join(shown).splitlines())


def number(value: Any) -> str:
    """One number; of several lanes the mean and the range."""
    values = np.asarray(value)
    if not values.size:
        return "-"
    if values.size == 1:
        return _short(values.reshape(-1)[0])
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    mean = _short(values.mean())
    return mean if low == high else f"{mean} [{_short(low)}, {_short(high)}]"


def _short(value: Any) -> str:
    if value.dtype.kind in "iub":
        return str(value.item())
    return f"{float(value):.4g}"


def state(run: Run) -> str:
    return "stopped" if run.state == "stopped" else ""
