"""Draws chart.svg and gpu.svg from the figures that README.md records.

Run it after record.py: `python benchmarks/chart.py`. The charts are as wide as a phone shows without
scaling, and say in words what their bars show.
"""

from __future__ import annotations

import math
import pathlib
import re
from typing import NamedTuple
from xml.sax.saxutils import escape

FOLDER = pathlib.Path(__file__).parent

# What is shown: the title of a table in README.md, and its words in the chart.
CASES = {
    "lax.scan step, pure callback, returns its argument": "a callback in a scan, per step",
    "lax.scan step, ordered io callback": "ordered io in a scan, per step",
    "lax.scan step, debug.print to /dev/null": "debug.print in a scan, per line",
    "vmap, sequential, 1000 lanes": "a callback under vmap, per lane",
    "jitted call, pure callback, 1 argument": "a jitted call with a callback",
    "jitted call, io callback": "a jitted call with io",
    "jitted call, ordered io callback": "a jitted call with ordered io",
    "jitted call, debug.callback": "a jitted call with debug.callback",
}
COLOURS = {"jax.*": "#b45309", "callbax": "#1d4ed8"}

WIDTH, LEFT, RIGHT, ROW, BAR = 380, 12, 112, 62, 16
SECONDS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


class Case(NamedTuple):
    label: str
    times: dict[str, str]  # of each contender, as the table has it


def seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * SECONDS[unit]


def recorded(readme: str) -> list[Case]:
    """The cases that the tables of README.md have, in the order of CASES."""
    found = []
    for title, label in CASES.items():
        table = re.search(rf"^\*\*{re.escape(title)}\*\*\n\n((?:\|.*\n)+)", readme, re.MULTILINE)
        if table is None:
            raise SystemExit(f"README.md has no table of that title: {title}")
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[1].splitlines()]
        times = {row[0]: row[1] for row in rows if row[0] in COLOURS}
        found.append(Case(label, {name: times[name] for name in COLOURS}))
    return found


def recorded_on_gpu(readme: str) -> list[Case]:
    """The rows of the first table of README.md's part on GPUs."""
    table = readme.partition("\n## On an NVIDIA GPU\n")[2].partition(
        "| | JAX's callbacks | callbax |\n"
    )[2]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.partition("\n\n")[0].splitlines()[1:]
    ]
    return [Case(label, {"jax.*": theirs, "callbax": ours}) for label, theirs, ours in rows]


def draw(cases: list[Case], title: str = "Time taken, whole call; shorter is better") -> str:
    """Bars on a logarithmic scale, two for each case, each with its figure."""
    times = [seconds(text) for case in cases for text in case.times.values()]
    low = 10 ** math.floor(math.log10(min(times)))
    scale = (WIDTH - LEFT - RIGHT) / math.log10(max(times) / low)
    height = 58 + ROW * len(cases) + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" role="img" '
        'aria-label="Time taken by callbacks: JAX beside callbax">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 24, title, size=15, weight=600),
        _text(LEFT, 44, "logarithmic scale; ×: JAX’s time by callbax’s", size=12, colour="#4b5563"),
    ]
    for i, case in enumerate(cases):
        top = 64 + ROW * i
        ratio = seconds(case.times["jax.*"]) / seconds(case.times["callbax"])
        lines.append(_text(LEFT, top + 8, f"{case.label}: {ratio:.3g}×", size=13))
        for j, (name, text) in enumerate(case.times.items()):
            y = top + 14 + (BAR + 2) * j
            length = scale * math.log10(seconds(text) / low)
            lines.append(
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" '
                f'fill="{COLOURS[name]}"/>'
            )
            named = f"{name.removesuffix('.*')} {text}".replace("jax", "JAX")
            lines.append(_text(LEFT + length + 5, y + 12.5, named, size=12, colour=COLOURS[name]))
    lines.append(
        _text(LEFT, height - 10, "benchmarks/README.md says how", size=11, colour="#4b5563")
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, size: int, colour: str = "#111827", weight: int = 400):
    style = f'font-size="{size}" fill="{colour}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def charts() -> dict[str, str]:
    """The text of each chart, by the name of its file."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    return {
        "chart.svg": draw(recorded(readme)),
        "gpu.svg": draw(recorded_on_gpu(readme), "On a GPU; net, shorter is better"),
    }


def main() -> None:
    for name, text in charts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
