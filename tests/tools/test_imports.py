"""What importing callbax and its tools does not import."""

import subprocess
import sys

import pytest

OPTIONAL = (
    "rich",
    "tqdm",
    "tensorboard",
    "tensorboardX",
    "wandb",
    "sqlite3",
    "torch",
    "cupy",
    "orbax",
)


def printed_by(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    ).stdout.split()


@pytest.mark.parametrize("statement", ["import callbax", "import callbax.tools"])
def test_optional_libraries_are_not_imported(statement):
    program = f"""
import sys
import jax, numpy
before = set(sys.modules)  # a start-up hook of the environment may have brought any
{statement}
print(*(set({OPTIONAL!r}) & (set(sys.modules) - before)))
"""
    assert printed_by(program) == []


def test_tools_are_an_attribute_of_callbax():
    assert printed_by("import callbax as cb; print(cb.tools.__name__)") == ["callbax.tools"]
