"""What JAX reads when it starts: eight CPU devices, no other platform. Which tests run: --full."""

import gc
import os
import shutil
import subprocess
import sys
import zlib
from collections import defaultdict
from pathlib import Path

import hypothesis
import pytest

_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# With importlib's import mode pytest leaves sys.path alone; the tests import `helpers` by name.
sys.path.insert(0, str(Path(__file__).parent))

import fake_cuda  # noqa: E402 - found by the path above
import jax  # noqa: E402 - reads the settings above

if fake_cuda.IS_ON:
    fake_cuda.run_all_programs_so()
from portable_differences import expect_differences  # noqa: E402 - found by the path above


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="all cases of all tests, not a sample")
    parser.addoption("--one-in", type=int, default=1, help="without --full: one of so many tests")


def pytest_configure(config):
    if not config.getoption("--full") and jax.__version_info__ < (0, 11):
        # XLA's compiler takes half of the time, and less without these, which newer versions always use.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    # Each example of hypothesis' compiles a program: few, always the same, however long they take.
    few = {"deadline": None, "derandomize": True, "database": None}
    hypothesis.settings.register_profile("sample", max_examples=10, **few)
    hypothesis.settings.register_profile("full", max_examples=60, **few)
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "sample")
    config.addinivalue_line("markers", "full: a test that runs with --full only")
    config.addinivalue_line(
        "markers", "cold: its programs import JAX themselves, as --full's all do"
    )
    config.addinivalue_line(
        "markers",
        "process: it starts a process, which takes seconds; without --full, one of six of its cases "
        "runs, and a third of the tests without cases",
    )
    config.addinivalue_line(
        "markers",
        "sampled(n): one of n of its cases runs without --full; unmarked, half of up to five, a "
        "fifth of up to ten, and an eighth of more",
    )


def pytest_collection_modifyitems(config, items):
    """Without --full, leaves out what is marked so. A sample is the same in each run, on each machine."""
    expect_differences(items)
    if config.getoption("--full") or any("::" in argument for argument in config.args):
        return  # a test that is named runs
    cases = defaultdict(list)
    left_out = set()
    for item in items:
        if item.get_closest_marker("full"):
            left_out.add(item)
        elif "[" in item.nodeid:
            cases[item.nodeid.partition("[")[0]].append(item)
        elif _is_one_of_three(item) and zlib.crc32(item.name.encode()) % 3:
            left_out.add(item)
    for of_test in cases.values():
        n = _one_in(of_test)
        # Tests with the same cases get the same sample, whatever order they are in: they share work.
        by_hash = sorted(
            of_test, key=lambda item: zlib.crc32(item.nodeid.partition("[")[2].encode())
        )
        left_out.update(by_hash[-(-len(by_hash) // n) :])
    if (one_in := config.getoption("--one-in")) > 1:
        left_out.update(item for item in items if zlib.crc32(item.nodeid.encode()) % one_in)
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _is_one_of_three(item):
    return item.get_closest_marker("process") and not item.get_closest_marker("sampled")


def _one_in(cases):
    if mark := cases[0].get_closest_marker("sampled"):
        return mark.args[0]
    if cases[0].get_closest_marker("process"):
        return 6
    return 2 + 3 * (len(cases) > 5) + 3 * (len(cases) > 10)


@pytest.fixture(scope="session")
def full(request):
    """Whether all cases of all tests run."""
    return request.config.getoption("--full")


@pytest.fixture(scope="module", autouse=True)
def _small_heap():
    """What was there before a file's tests is not searched, and its programs end with it.

    Else each search for kept arrays, and each garbage collection, takes as long as all of the files
    that ran before have left objects: seconds, in the end.
    """
    gc.freeze()
    yield
    gc.unfreeze()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(full, tmp_path_factory):
    """Without --full, a program that two files of tests have in common is compiled once.

    Most of the time goes into XLA's compiler, much of it into the same small programs again. With
    --full each is compiled anew, so both ways of getting a program are tested. Programs in other
    processes do not share it.
    """
    if not full:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory):
    """Compiles source text to a shared library, with callbax's header at hand; returns its path."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("there is no C compiler")

    def compile_source(source: str, suffix: str = ".c") -> str:
        import callbax

        directory = tmp_path_factory.mktemp("library")
        path = directory / f"source{suffix}"
        path.write_text(source)
        library = directory / "library.so"
        language = ["-std=c99", "-Wpedantic"] if suffix == ".c" else ["-lstdc++"]
        flags = ["-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", *language]
        include = f"-I{callbax.get_include()}"
        command = [compiler, include, str(path), "-o", str(library), *flags, "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return str(library)

    return compile_source
