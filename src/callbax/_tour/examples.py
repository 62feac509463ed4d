"""Chapters of examples: an example is a function, and its source is what the reader sees.

A chapter is a module. Its docstring gives title and introduction; each function that is decorated
with `chapter.example` is one example: the first line of its docstring is the title, the rest the
explanation, and its body the code. An example fails if it raises (its assertions are its check), or
if it does not print what it should.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import logging
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator

import callbax


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an example printed, and how it failed, if it did."""

    output: str
    failure: str | None


@dataclasses.dataclass(frozen=True)
class Example:
    """One example, as shown and as run.

    Attributes:
      code: the definitions that it uses and its own body.
      function: what runs.
      prints: a regular expression that all of the output must match.
    """

    title: str
    explanation: str
    code: str
    function: Callable[[], None]
    prints: str

    def run(self) -> Outcome:
        output = io.StringIO()
        failure = None
        with contextlib.redirect_stdout(output), _quiet_log():
            try:
                self.function()
                callbax.effects_barrier()
            except Exception:  # noqa: BLE001  (whatever it is, the reader gets to see it)
                failure = traceback.format_exc().rstrip()
        printed = output.getvalue().rstrip()
        if failure is None and not re.fullmatch(self.prints, printed, re.DOTALL):
            failure = f"The output should match {self.prints!r}."
        return Outcome(printed, failure)


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """Failures that are to be seen are printed, and need not be logged."""
    logger, handler = logging.getLogger("callbax"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class Chapter:
    """The examples of one module, in the order of their definition."""

    def __init__(self, module: str):
        self.module = module
        self.title, self.introduction = _title_and_text(sys.modules[module].__doc__)
        self.examples: list[Example] = []
        source = inspect.getsource(sys.modules[module])
        self._lines = source.splitlines()
        self._nodes = _named_nodes(ast.parse(source))

    def example(
        self, *definitions: str, prints: str = ".*"
    ) -> Callable[[Callable[[], None]], Callable[[], None]]:
        """Makes a function an example.

        Args:
          *definitions: names of the module that are shown in front of the example's own code.
          prints: a regular expression that all of the output must match.
        """

        def add(function: Callable[[], None]) -> Callable[[], None]:
            title, explanation = _title_and_text(function.__doc__)
            parts = [self._definition(name) for name in definitions]
            parts.append(self._body(function.__name__))
            self.examples.append(Example(title, explanation, "\n\n".join(parts), function, prints))
            return function

        return add

    def _definition(self, name: str) -> str:
        node = self._nodes[name]
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        return "\n".join(self._lines[first - 1 : node.end_lineno])

    def _body(self, name: str) -> str:
        node = self._nodes[name]
        assert isinstance(node, ast.FunctionDef)
        docstring = node.body[0]
        lines = self._lines[docstring.end_lineno : node.end_lineno]
        return textwrap.dedent("\n".join(lines)).strip("\n")


def _title_and_text(docstring: str | None) -> tuple[str, str]:
    title, _, text = inspect.cleandoc(docstring or "").partition("\n")
    return title.rstrip("."), text.strip()


def _named_nodes(module: ast.Module) -> dict[str, ast.stmt]:
    nodes: dict[str, ast.stmt] = {}
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            nodes[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            nodes[node.targets[0].id] = node
    return nodes
