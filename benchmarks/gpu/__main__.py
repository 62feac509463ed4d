"""Checks and measures callbacks of programs on an NVIDIA GPU, within nine minutes (or --seconds).

    python benchmarks/gpu                        # all sections; a table, and gpu.json
    python benchmarks/gpu --out FOLDER cost      # some
    CALLBAX_RUNTIME=portable python benchmarks/gpu cost

Each section is a program of its own with a limit of time, so that one that hangs or ends the process
costs its own limit only. They are in order of worth: what no time is left for is skipped, and shown so.
The exit status says whether all checks of all sections have passed.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).parent
SECONDS = 540  # by default, in all
LIMITS = {  # in seconds
    "facts": 60,
    "correctness": 120,
    "nested": 60,
    "leaving": 90,
    "cost": 120,
    "bandwidth": 120,
    "detached": 60,
    "device_callees": 90,
}
LAST_LINES = 25  # of what a failing section has written


def run(name, seconds):
    """What a section has reported, its exit status, and the end of what else it has written."""
    command = [sys.executable, FOLDER / f"{name}.py"]
    environment = {"CALLBAX_RUNTIME": "native", **os.environ}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=seconds, env=environment, check=False
        )
        output, errors, status = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as expired:
        output, errors, status = expired.stdout or b"", expired.stderr or b"", "too long"
    found = {"checks": {}, "figures": {}}
    for line in output.decode(errors="replace").splitlines():
        if line.startswith("RESULT "):
            kind, what, value = json.loads(line.removeprefix("RESULT "))
            found[kind][what] = value
    failed = status != 0 or not all(found["checks"].values())
    text = errors.decode(errors="replace").splitlines()[-LAST_LINES:] if failed else []
    return {"status": status, "failed": failed, **found, "text": text}


def show(name, found):
    checks = found["checks"]
    failed = [what for what, passed in checks.items() if not passed]
    print(f"\n## {name}: {len(checks) - len(failed)} checks passed, {len(failed)} failed", end="")
    print(f"; exit status {found['status']}\n" if found["status"] != 0 else "\n")
    for what in failed:
        print(f"- FAILED: {what}")
    if found["figures"]:
        print("| | |\n|---|--:|")
    for what, value in found["figures"].items():
        print(f"| {what} | {value:.4g} |" if isinstance(value, float) else f"| {what} | {value} |")
    for line in found["text"]:
        print(f"    {line}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path())
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("names", nargs="*", choices=[[], *LIMITS], metavar="SECTION")
    options = parser.parse_args()
    start = time.monotonic()
    everything = {}
    for name in options.names or LIMITS:
        left = options.seconds - (time.monotonic() - start)
        if left < 15:
            print(f"\n## {name}: skipped, no time is left")
            continue
        everything[name] = run(name, min(LIMITS[name], left))
        show(name, everything[name])
        (options.out / "gpu.json").write_text(json.dumps(everything, indent=1))
    print(f"\n{time.monotonic() - start:.0f} s")
    return any(found["failed"] for found in everything.values())


if __name__ == "__main__":
    sys.exit(main())
