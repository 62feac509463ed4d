"""Runs the full benchmark and puts its tables into README.md, below the marker.

Run it on a quiet machine, from anywhere: `python benchmarks/record.py`.
"""

import pathlib
import subprocess
import sys

MARKER = "<!-- Everything below is written by record.py. -->\n"


def main() -> None:
    readme = pathlib.Path(__file__).with_name("README.md")
    command = [sys.executable, "-m", "callbax", "bench", "--markdown"]
    tables = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    prose, marker, _ = readme.read_text().partition(MARKER)
    if not marker:
        raise SystemExit(f"{readme} has lost its marker: {MARKER}")
    readme.write_text(prose + MARKER + tables)


if __name__ == "__main__":
    main()
