"""The native parts that use no Python, under ThreadSanitizer."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("registry", "block_pool", "loops", "loop_ranges", "system")
CUDA_PARTS = ("cuda_driver", "long_calls", "pinned", "worker")


def build(compiler: str, output: Path, *sources: Path) -> bool:
    flags = ("-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread")
    include = [f"-I{ROOT / 'native'}", f"-I{ROOT / 'native' / 'cuda'}"]
    command = [compiler, *flags, *include, *map(str, sources), "-o", str(output), "-ldl"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.full
def test_no_data_race_where_threads_meet(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("c++")
    empty = tmp_path / "empty.cc"
    empty.write_text("int main() {}\n")
    if compiler is None or not build(compiler, tmp_path / "empty", empty):
        pytest.skip("there is no compiler with ThreadSanitizer")
    if subprocess.run([tmp_path / "empty"], capture_output=True).returncode != 0:
        pytest.skip("ThreadSanitizer does not work on this system")
    program = tmp_path / "threads"
    parts = [ROOT / "native" / f"{part}.cc" for part in PARTS]
    parts += [ROOT / "native" / "cuda" / f"{part}.cc" for part in CUDA_PARTS]
    assert build(compiler, program, ROOT / "tests" / "native" / "threads.cc", *parts)
    finished = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert (finished.returncode, finished.stdout) == (0, "done\n"), finished.stderr
