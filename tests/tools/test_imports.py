"""What importing callbax and its tools does not import."""

import subprocess
import sys

import pytest

OPTIONAL = ("rich", "tqdm", "tensorboard", "tensorboardX", "wandb", "sqlite3", "torch", "orbax")


@pytest.mark.parametrize("statement", ["import callbax", "import callbax.tools"])
def test_optional_libraries_are_not_imported(statement):
    program = f"{statement}; import sys; print(*(set({OPTIONAL!r}) & set(sys.modules)))"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert finished.stdout.split() == []


def test_tools_are_an_attribute_of_callbax():
    program = "import callbax as cb; print(cb.tools.__name__)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert finished.stdout.split() == ["callbax.tools"]
