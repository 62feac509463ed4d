"""The documentation is true: its examples run and print what is shown, its links lead somewhere.

A ```python block of a page is executed; the ```text block that follows it, if there is one, is what
it prints, or ends with the exception that it raises. Without one it prints nothing. The blocks of a
page share one namespace, and each page has a process of its own, which is this file run as a script:

    python tests/test_docs.py docs/guide.md
"""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import importlib
import io
import os
import pkgutil
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import xla_flags

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.sampled(1)  # each case is another file
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = ROOT / "examples" / "README.md"
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", EXAMPLES]
COMMANDS = [
    "pip install '.[tour]' && python -m callbax tour",
    "pip install '.[test]' && python -m pytest -n 2",
]
COMPARISON = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclasses.dataclass(frozen=True)
class Example:
    """A block of Python, the line it begins at, and what it should show."""

    source: str
    line: int
    shown: str


def read_examples(page: Path) -> Iterator[Example]:
    """The page's Python blocks, each with the text block right after it."""
    text = page.read_text(encoding="utf-8")
    block = r"^```python\n(?P<source>.*?)^```\n(\s*^```text\n(?P<shown>.*?)^```\n)?"
    for found in re.finditer(block, text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start("source")) + 1
        yield Example(found["source"], line, found["shown"] or "")


PAGES_WITH_EXAMPLES = [page for page in PAGES if any(read_examples(page))]


def run_example(example: Example, page: Path, namespace: dict[str, object]) -> str:
    """What the example shows. An exception counts as a last line, as in a traceback."""
    from callbax import effects_barrier

    # Blank lines in front, so that tracebacks name the page's own lines.
    code = compile("\n" * (example.line - 1) + example.source, str(page), "exec")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        try:
            exec(code, namespace)
            effects_barrier()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the page shows
            shown.write(f"{type(error).__name__}: {error}\n")
    return shown.getvalue()


def main(page: Path) -> int:
    """Runs a page; reports each example that shows something else. Returns how many did."""
    module = types.ModuleType(page.stem)
    sys.modules[page.stem] = module
    checker = doctest.OutputChecker()
    failures = 0
    for example in read_examples(page):
        got = run_example(example, page, module.__dict__)
        if checker.check_output(example.shown, got, COMPARISON):
            continue
        failures += 1
        # The report of the difference is doctest's, made from an example of its own kind.
        expected = doctest.Example(example.source, example.shown)
        difference = checker.output_difference(expected, got, COMPARISON)
        print(f"{page}:{example.line}\n{difference}", file=sys.stderr)
    return failures


def on_devices() -> Iterator[object]:
    """Each page with as few devices as its examples need; with --full, with more too."""
    for page in PAGES_WITH_EXAMPLES:
        several = "jax.make_mesh((4,)" in page.read_text(encoding="utf-8")
        for devices in [4] if several else [1, 4]:
            marks = [pytest.mark.full] if devices == 4 and not several else []
            yield pytest.param(page, devices, marks=marks, id=f"{page.name}-{devices}")


@pytest.mark.parametrize(("page", "devices"), list(on_devices()))
def test_examples_show_what_the_page_says(page: Path, devices: int) -> None:
    assert page.exists()
    command = [sys.executable, "-W", "error", __file__, str(page)]
    finished = subprocess.run(
        command,
        env={**os.environ, "XLA_FLAGS": xla_flags(devices), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


def modules() -> list[str]:
    import callbax

    names = [module.name for module in pkgutil.walk_packages(callbax.__path__, "callbax.")]
    return [name for name in names if "._tour" not in name and name != "callbax.__main__"]


@pytest.mark.parametrize("name", modules())
def test_examples_of_docstrings(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=COMPARISON)
    assert failed == 0


def test_examples_of_classes_that_name_callbax_as_their_module() -> None:
    """The modules that define them do not own them, says doctest."""
    import callbax

    public = {name: getattr(callbax, name) for name in dir(callbax)}
    of_callbax = {
        name: item
        for name, item in public.items()
        if isinstance(item, type) and item.__module__ == "callbax"
    }
    assert "CallbackError" in of_callbax and "CheckError" in of_callbax
    runner = doctest.DocTestRunner(optionflags=COMPARISON)
    for name, item in of_callbax.items():
        for example in doctest.DocTestFinder().find(item, name, module=False, globs={}):
            runner.run(example)
    assert runner.summarize().failed == 0


def test_public_functions_have_examples() -> None:
    import callbax

    functions = [
        callbax.pure_callback,
        callbax.io_callback,
        callbax.effects_barrier,
        callbax.debug.callback,
        callbax.debug.print,
        callbax.debug.log,
        callbax.debug.breakpoint,
        callbax.host_callback.call,
        callbax.host_callback.id_tap,
        callbax.host_callback.id_print,
        callbax.host_callback.barrier_wait,
        callbax.original_exception,
        callbax.reraise,
        callbax.native,
        callbax.get_include,
    ]
    for function in functions:
        assert ">>> " in (function.__doc__ or ""), f"{function.__qualname__} has no example"


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_readme_starts_with_an_example() -> None:
    first_fence = re.search(r"^```(\w+)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert first_fence and first_fence[1] == "python"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_readme(command: str) -> None:
    assert command in README.read_text(encoding="utf-8").splitlines()


def test_continuous_integration_uses_the_commands_of_readme() -> None:
    script = ROOT / ".ci" / "sections" / "tests"
    if not script.exists():
        pytest.skip("this copy of the project comes without .ci")
    text = script.read_text(encoding="utf-8")
    for step in COMMANDS[1].split(" && "):
        assert step in text, f"{script} does not run {step!r}"


def read_prose(page: Path) -> str:
    """The page without its code."""
    code = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    return code.sub("", page.read_text(encoding="utf-8"))


def heading_anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.+)$", read_prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read_prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            assert anchor in heading_anchors(linked), f"{page.name}: {target} has no such heading"


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1])), 100))
