"""Runs benchmarks, puts their tables into README.md, below the marker, and draws chart.svg.

Run it on a quiet machine, from anywhere: `python benchmarks/record.py`, or with the names of those that
are to be run again: `python benchmarks/record.py bench once`. Each table is kept as soon as it is there.
"""

import pathlib
import re
import subprocess
import sys

import chart

MARKER = "<!-- Everything below is written by record.py. -->\n"
FOLDER = pathlib.Path(__file__).parent
README = FOLDER / "README.md"
# In the order of README.md: the heading of each benchmark's tables.
HEADINGS = {
    "bench": "## callbax, measured",
    "once": "## What is paid once, eager calls, prints",
    "external": "## `callbax.external`",
    "ufunc": "## `callbax.ufunc`",
    "progress": "## Progress bars",
    "log": "## Logs",
    "batches": "## Data into loops",
    "checks": "## Checks while nothing fails",
    "programs": "## Programs that travel and scale",
    "third_party": "## Libraries, with callbax installed",
}


def _run(name: str) -> str:
    """The tables of a benchmark, under its heading; that of `bench` is its own."""
    script = (
        ["-m", "callbax", "bench", "--markdown"] if name == "bench" else [FOLDER / f"{name}.py"]
    )
    command = [sys.executable, *script]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return output if name == "bench" else f"{HEADINGS[name]}\n\n{output}"


def _recorded(text: str) -> dict[str, str]:
    """What is below the marker, by benchmark."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    by_heading = {part.partition("\n")[0]: part.strip() for part in parts if part.strip()}
    return {name: by_heading.get(heading, "") for name, heading in HEADINGS.items()}


def main() -> None:
    for name in sys.argv[1:] or HEADINGS:
        tables = _run(name)
        prose, marker, below = README.read_text().partition(MARKER)
        if not marker:
            raise SystemExit(f"{README} has lost its marker: {MARKER}")
        sections = {**_recorded(below), name: tables}
        shown = "\n\n".join(sections[name] for name in HEADINGS if sections[name])
        README.write_text(f"{prose}{MARKER}\n{shown}\n")
    chart.main()


if __name__ == "__main__":
    main()
