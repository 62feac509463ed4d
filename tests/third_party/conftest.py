"""What third-party programs were seen to do: each file of programs is played once in each mode."""

import json
import os
import re
import subprocess
import sys
from functools import cache

import pytest
from third_party.play import PLAIN
from third_party.programs_of import HERE, PROGRAMS, missing_libraries

DEADLINE = 500  # seconds for a file of programs, to end a hang
# numpyro shows no bar where one of these is set.
_OF_TEST_RUNS = ("CI", "PYTEST_XDIST_WORKER")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in _OF_TEST_RUNS},
    "TQDM_MININTERVAL": "0",  # each update is drawn, whatever time has passed
    "TQDM_NCOLS": "200",
}
# What a library says that uses what this version of JAX has no more.
_NO_SUCH_NAME = re.compile(
    r"cannot import name '\w+' from 'jax.*|module 'jax\S* has no attribute.*"
)


@pytest.fixture(scope="session")
def observed(tmp_path_factory):
    """A function of a program ("file:name") and a mode: what was observed of it, as play.py says."""
    folder = tmp_path_factory.mktemp("observed")

    @cache
    def play(file, mode):
        output = folder / f"{file}.{mode}"
        command = [sys.executable, HERE / "play.py", PROGRAMS / f"{file}.py", mode, output]
        try:
            run = subprocess.run(
                command, env=ENVIRONMENT, timeout=DEADLINE, capture_output=True, text=True
            )
            end = f"the process ended with {run.returncode}:\n{run.stdout}{run.stderr}"
        except subprocess.TimeoutExpired:
            end = f"the process did not end in {DEADLINE} s"
        lines = output.read_text().splitlines() if output.exists() else []
        return {line["name"]: line for line in map(json.loads, lines)}, end

    def observation(program, mode):
        file, _, name = program.partition(":")
        if missing := missing_libraries(PROGRAMS / f"{file}.py"):
            pytest.skip(f"not installed: {', '.join(missing)}")
        programs, end = play(file, mode)
        assert name in programs, f"after {', '.join(programs) or 'no program'}, {end}"
        error = programs[name]["error"]
        if mode == PLAIN and error and (reason := _NO_SUCH_NAME.search(error[1])):
            pytest.skip(f"the library does not support this version of JAX: {reason[0]}")
        return programs[name]

    return observation
