"""`python -m callbax`, as a user runs it: in a process of its own."""

import os
import re
import subprocess
import sys

import pytest

DEADLINE = 240
pytestmark = pytest.mark.process

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
RUN = "from callbax.__main__ import main; sys.exit(main({arguments!r}))"


def run(*arguments, code=None, **environment):
    command = ["-c", code] if code else ["-m", "callbax", *arguments]
    unset = ("FORCE_COLOR", "COLUMNS")  # the page's own defaults; pytest-xdist sets a width
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**clean, "JAX_PLATFORMS": "cpu", **environment},
    )


def run_without(hidden, *arguments):
    return run(code=HIDE.format(hidden=hidden) + RUN.format(arguments=arguments))


def test_without_a_command_it_prints_help():
    result = run()
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("tour", "bench", "info"))


def test_an_unknown_command_is_an_error():
    result = run("dance")
    assert result.returncode == 2 and "dance" in result.stderr


def test_version():
    import callbax

    assert run("--version").stdout.strip() == callbax.__version__


def test_info():
    result = run("info")
    assert result.returncode == 0, result.stderr
    for word in ("callbax", "jaxlib", "numpy", "Python", "XLA FFI", "cpu", "registered"):
        assert word in result.stdout
    for flavour in ("pure_callback", "io_callback", "io_callback, ordered", "debug.callback"):
        assert re.search(rf"^{flavour}.*  yes", result.stdout, re.MULTILINE)
    assert "programs with effects: by JAX's C++ path" in " ".join(result.stdout.split())


def test_info_says_whose_jaxs_callbacks_are(tmp_path):
    assert "JAX's own callbacks: JAX's way" in " ".join(run("info").stdout.split())
    code = "import callbax; callbax.install(); from callbax.__main__ import main; main(['info'])"
    assert "callbax.install(arguments='numpy')" in run(code=code).stdout


def test_info_without_extras():
    result = run_without(("rich", "scipy", "sklearn", "jax_tvm_ffi"), "info")
    assert result.returncode == 0, result.stderr
    assert len(re.findall("not installed", result.stdout)) == 4


@pytest.mark.full
def test_the_tour_runs_every_example_and_is_plain_in_a_pipe():
    result = run("tour")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert "34 examples ran" in result.stdout and "all came out as they should" in result.stdout
    assert "\x1b" not in result.stdout and "Left out" not in result.stdout
    landmarks = (
        "inside: JitTracer|inside: Traced", "inside: 3", "the callback runs", r"\(no output\)",
        "drawing float32", "Cannot `vmap` ordered IO callback", "IO callbacks do not support JVP",
        "hello", "log: 3.0", "jax.custom_jvp", "J1''", "written after", "in lane 1 of 2", "What it costs",
    )  # fmt: skip
    positions = [re.search(landmark, result.stdout) for landmark in landmarks]
    assert all(positions)
    starts = [match.start() for match in positions]
    assert starts[-1] == max(starts) and starts[:4] == sorted(starts[:4])


@pytest.mark.full
def test_the_tour_in_a_terminal_has_colours():
    pytest.importorskip("rich")
    result = run("tour", FORCE_COLOR="1", TERM="xterm-256color", COLUMNS="100")
    assert result.returncode == 0, result.stderr
    assert "\x1b[" in result.stdout and "╭" in result.stdout
    assert "all came out as they should" in result.stdout


@pytest.mark.full
def test_the_tour_without_extras_says_what_is_missing_and_runs_the_rest():
    result = run_without(("rich", "scipy", "sklearn"), "tour")
    assert result.returncode == 0, result.stdout + result.stderr
    for package in ("rich", "scipy", "scikit-learn"):
        line = rf"^Left out: .* needs? {package}: pip install 'callbax\[tour\]'$"
        assert re.search(line, result.stdout, re.MULTILINE)
    assert "25 examples ran" in result.stdout
    assert re.search(r"callbax +jax\.\*", result.stdout)  # the table of measurements, without rich


@pytest.mark.full
def test_the_tour_without_scikit_learn_alone():
    result = run_without(("sklearn",), "tour")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(re.findall("Left out", result.stdout)) == 1 and "32 examples ran" in result.stdout


@pytest.mark.full
def test_the_tour_with_64_bit_types():
    result = run("tour", JAX_ENABLE_X64="1")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_failing_example_gives_a_non_zero_exit_code():
    code = """
import sys
from callbax._tour import examples, tour
from callbax._tour.chapters import debug_callback

def wrong():
    raise AssertionError("out of order")

tour.CHAPTERS = ("debug_callback", "io_callback")
tour.benchmark.run_small_table = lambda page: None
debug_callback.chapter.examples.append(examples.Example("Wrong", "", "wrong()", wrong, ".*"))
"""
    result = run(code=code + RUN.format(arguments=("tour",)))
    assert result.returncode == 1, result.stderr
    assert "AssertionError: out of order" in result.stdout and "1 FAILED" in result.stdout
    assert "Cannot `vmap` ordered IO callback" in result.stdout  # what follows still ran


def test_a_reader_that_leaves_early_is_no_error_message():
    command = f"{sys.executable} -m callbax info | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=DEADLINE)
    assert result.stderr == ""


@pytest.mark.full
def test_quick_benchmark_as_markdown_without_a_peer():
    result = run_without(("jax_tvm_ffi",), "bench", "--quick", "--markdown")
    assert result.returncode == 0, result.stderr
    assert len(re.findall("Left out: .*jax_tvm_ffi", result.stdout)) == 1
    assert "| callbax |" in result.stdout and "| jax.* |" in result.stdout
    assert "What callbax promises" in result.stdout


def test_importing_callbax_imports_no_extra():
    code = """
import sys
import callbax
extras = {"rich", "sklearn", "scipy.special", "jax_tvm_ffi", "tvm_ffi", "callbax._tour"}
assert not extras & set(sys.modules), extras & set(sys.modules)
"""
    result = run(code=code)
    assert result.returncode == 0, result.stderr


def test_the_chapter_on_devices_provides_them():
    result = run("tour", "--chapter", "devices", XLA_FLAGS="")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "on 4 devices" in result.stdout and "1 example ran" in result.stdout


def test_other_chapters_do_not_exist():
    result = run("tour", "--chapter", "dessert")
    assert result.returncode == 2 and "invalid choice: 'dessert'" in result.stderr


def test_run_names_what_it_misses():
    result = run("run")
    assert result.returncode == 2
    assert result.stderr.endswith("the following arguments are required: program\n")
