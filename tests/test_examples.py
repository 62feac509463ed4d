"""Every program in examples/ runs to its end, alone, as its header says."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
DEADLINE = 120  # seconds; an example takes a few, on a machine that is not busy

# Runs a program as a script would; only callbax's own warnings are errors, since an example has no
# say in those of the libraries that it shows.
RUNNER = """
import runpy, sys, warnings
warnings.filterwarnings("error", module=r"callbax(\\.|$)")
warnings.filterwarnings("error", message=r"(?s).*callbax")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(program: Path) -> tuple[int, str]:
    """The exit status and the output; the program and its workers are killed at the deadline."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(program)],
        cwd=EXAMPLES.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"no end within {DEADLINE} s; output so far:\n{output}")
    return process.returncode, output


@pytest.mark.sampled(9)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_runs_to_its_end_and_prints_its_result(program: Path) -> None:
    status, output = run(program)
    assert status == 0, f"{program.name} ended with exit status {status}:\n{output}"
    assert output.strip(), f"{program.name} prints nothing"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_header_names_the_command_that_runs_it(program: Path) -> None:
    header = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or ""
    assert f"python examples/{program.name}" in header


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_list_of_examples_has_it(program: Path) -> None:
    assert f"]({program.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
