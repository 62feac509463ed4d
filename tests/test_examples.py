"""Every program in examples/ runs to its end, alone, and prints what docs/recipes.md shows of it."""

from __future__ import annotations

import ast
import doctest
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
RECIPES = sorted(EXAMPLES.glob("recipes/*.py"))
LONGER = sorted(EXAMPLES.glob("*.py"))
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
DEADLINE = 120  # seconds; an example takes a few, on a machine that is not busy
each_program = pytest.mark.parametrize("program", LONGER + RECIPES, ids=lambda path: path.stem)
each_recipe = pytest.mark.parametrize("program", RECIPES, ids=lambda path: path.stem)

# Runs a program as a script would; only callbax's own warnings are errors, since an example has no
# say in those of the libraries that it shows.
RUNNER = """
import runpy, sys, warnings
warnings.filterwarnings("error", module=r"callbax(\\.|$)")
warnings.filterwarnings("error", message=r"(?s).*callbax")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(program: Path) -> tuple[int, str, str]:
    """The exit status and what it wrote; the program and its workers are killed at the deadline."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(program)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        pytest.fail(f"no end within {DEADLINE} s; output so far:\n{output}\n{errors}")
    return process.returncode, output, errors


def shown_on_page(program: Path) -> str | None:
    """The text block after a paragraph of docs/recipes.md that begins with a link to the program."""
    link = rf"\[{program.name}\]\(\.\./{program.relative_to(ROOT)}\)"
    found = re.search(rf"^{link}(?:(?!^\[|```).)*^```text\n(.*?)^```$", PAGE, re.M | re.S)
    return found[1] if found else None


@pytest.mark.sampled(16)
@pytest.mark.parametrize(
    "program",
    [pytest.param(program, marks=pytest.mark.full) for program in LONGER] + RECIPES,
    ids=lambda path: path.stem,
)
def test_runs_to_its_end_and_prints_its_result(program: Path) -> None:
    status, output, errors = run(program)
    if status == 1 and (
        needs := re.search(r"^this recipe needs \w+: pip install .*$", errors, re.M)
    ):
        pytest.skip(needs[0])
    assert status == 0, f"{program.name} ended with exit status {status}:\n{output}\n{errors}"
    assert output.strip(), f"{program.name} prints nothing"
    shown = shown_on_page(program)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if shown is not None and not doctest.OutputChecker().check_output(shown, output, options):
        pytest.fail(f"docs/recipes.md shows\n{shown}\nbut {program.name} prints\n{output}")


@each_program
def test_header_names_the_command_that_runs_it(program: Path) -> None:
    header = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or ""
    assert f"python {program.relative_to(ROOT)}" in header


@pytest.mark.parametrize("program", LONGER, ids=lambda path: path.stem)
def test_list_of_examples_has_it(program: Path) -> None:
    assert f"]({program.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


@each_recipe
def test_page_shows_what_the_recipe_prints(program: Path) -> None:
    assert shown_on_page(program)


@each_recipe
def test_page_says_which_extra_the_recipe_needs(program: Path) -> None:
    row = re.search(rf"^\| .*\]\(\.\./{program.relative_to(ROOT)}\) \| (.*)\|$", PAGE, re.M)
    extras = re.findall(r"pip install '\.\[(\w+)\]'", program.read_text(encoding="utf-8"))
    assert row and set(re.findall("`(.*?)`", row[1])) == set(extras)


# -- the gallery -----------------------------------------------------------------------------------
PICTURES = ROOT / "docs" / "pictures"


def test_the_gallery_shows_what_is_drawn():
    drawn = re.search(r"^DRAWN = \((.*?)\)$", (PICTURES / "gallery.py").read_text(), re.M | re.S)
    shown = re.findall(r"pictures/(\w+)\.svg", (EXAMPLES / "README.md").read_text())
    assert set(drawn[1].replace(",", " ").split()) == set(shown)
    assert all((PICTURES / f"{name}.svg").stat().st_size < 100_000 for name in shown)


@pytest.mark.full
def test_the_gallery_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    code = (
        "import pathlib, runpy, sys; of = runpy.run_path(sys.argv[1]); "
        "of['main']([], pathlib.Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, PICTURES / "gallery.py", tmp_path],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        check=True,
        capture_output=True,
        timeout=DEADLINE,
    )
    assert len(list(tmp_path.glob("*.svg"))) == 6
