"""The rules of the native side's structure, kept by reading the includes of each file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.sampled(1)  # each case is another file
NATIVE = ROOT / "native"
FILES = sorted(file for file in NATIVE.rglob("*") if file.is_file())
MOST_FILES = {"": 42, "cuda": 16, "dlpack": 6, "log": 6}  # by folder
EACH_FILE = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)

# What an include makes known. All other headers are C++'s own, the processor's or callbax's.
WORLDS = {
    "XLA": r"xla/.*",
    "Python": r"Python\.h|(nanobind|numpy)/.*",
    "the operating system": (
        r"(dlfcn|fcntl|poll|pthread|semaphore|signal|unistd|xlocale)\.h|csignal|sys/.*"
    ),
}
OWN = r"[a-z_]+|callbax/kernel\.h|xmmintrin\.h"


def includes(file: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', file.read_text(), re.MULTILINE)


HEADERS = {file.name: file for file in FILES if file.suffix == ".h"}


def all_includes(file: Path) -> set[str]:
    """Those of the headers that it includes, too."""
    found, waiting = set(), [file]
    while waiting:
        for name in set(includes(waiting.pop())) - found:
            found.add(name)
            if name in HEADERS:
                waiting.append(HEADERS[name])
    return found


@EACH_FILE
def test_each_native_file_knows_one_foreign_world_at_most(file):
    names = {name for name in all_includes(file) if name not in HEADERS}
    known = {
        name: next((world for world, names in WORLDS.items() if re.fullmatch(names, name)), None)
        for name in names
    }
    strange = [name for name in names if known[name] is None and not re.fullmatch(OWN, name)]
    assert not strange, f"{file.name} includes {strange}, of no world that is listed here"
    worlds = {world for world in known.values() if world is not None}
    assert len(worlds) <= 1, f"{file.name} knows {worlds}"


@EACH_FILE
def test_native_files_are_small_enough_to_read(file):
    assert len(file.read_text().splitlines()) <= 300


def test_there_are_few_native_files():
    folders = [str(file.parent.relative_to(NATIVE)).strip(".") for file in FILES]
    assert set(folders) == set(MOST_FILES)
    assert all(folders.count(folder) <= most for folder, most in MOST_FILES.items())


def test_what_is_for_all_platforms_knows_no_gpu():
    for file in FILES:
        if file.parent == NATIVE:
            assert not [name for name in includes(file) if HEADERS.get(name, file).parent != NATIVE]


def test_every_native_file_is_built():
    listed = re.findall(
        r"^  native/([\w/]+\.cc)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE
    )
    built = [str(file.relative_to(NATIVE)) for file in FILES if file.suffix == ".cc"]
    assert sorted(listed) == sorted(built)
