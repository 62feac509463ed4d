"""Runs all benchmarks, puts their tables into README.md, below the marker, and draws chart.svg.

Run it on a quiet machine, from anywhere: `python benchmarks/record.py`.
"""

import pathlib
import subprocess
import sys

import chart

MARKER = "<!-- Everything below is written by record.py. -->\n"


def _output(arguments: list[str]) -> str:
    command = [sys.executable, *arguments]
    return (
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip()
        + "\n"
    )


def main() -> None:
    readme = pathlib.Path(__file__).with_name("README.md")
    folder = readme.parent
    commands = {
        "": ["-m", "callbax", "bench", "--markdown"],
        "## What is paid once, eager calls, prints\n\n": [str(folder / "once.py")],
        "## `callbax.external`\n\n": [str(folder / "external.py")],
        "## `callbax.ufunc`\n\n": [str(folder / "ufunc.py")],
        "## Programs that travel and scale\n\n": [str(folder / "programs.py")],
        "## Libraries, with callbax installed\n\n": [str(folder / "third_party.py")],
    }
    tables = "\n".join(heading + _output(arguments) for heading, arguments in commands.items())
    prose, marker, _ = readme.read_text().partition(MARKER)
    if not marker:
        raise SystemExit(f"{readme} has lost its marker: {MARKER}")
    readme.write_text(prose + MARKER + tables)
    chart.main()


if __name__ == "__main__":
    main()
