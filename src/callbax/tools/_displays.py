"""The displays of progress, as a table: rich, tqdm, and lines of text. None is imported before use."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

from callbax.tools import _format
from callbax.tools._runs import Run
from callbax.tools._terminal import is_terminal

_FIRST_LINE = 1.0  # second
_MOST_SECONDS = 60.0  # between lines


class Display(Protocol):
    """Shows runs, the outer ones first, until it is closed; then it may begin again."""

    def show(self, rows: Sequence[Run]) -> None:
        """Shows how far they are now."""

    def close(self) -> None:
        """Leaves what it has shown last."""


class Silent:
    """Shows nothing."""

    def show(self, rows: Sequence[Run]) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """Lines of text on stderr, ever more seldom, and one at the end of each run."""

    def __init__(self) -> None:
        self._next: dict[int, float] = {}  # when the next line of a run is due
        self._ended: dict[int, float | None] = {}  # when it had ended as its last line was written

    def show(self, rows: Sequence[Run]) -> None:
        for run in rows:
            elapsed = run.elapsed
            if run.has_ended:
                due = self._ended.get(run.number) != run.ended
            else:
                due = elapsed >= self._next.setdefault(run.number, _FIRST_LINE)
            if due:
                self._write(run)
                self._ended[run.number] = run.ended
                self._next[run.number] = min(1.5 * elapsed, elapsed + _MOST_SECONDS)

    def _write(self, run: Run) -> None:
        if sys.stderr is not None:
            indent = "  " * run.level if run.nested else ""
            sys.stderr.write(f"{indent}{_format.line(run)}\n")
            sys.stderr.flush()

    def close(self) -> None:
        self._next.clear()
        self._ended.clear()


def _rich() -> Display:
    from callbax.tools._rich import Rich

    return Rich()


def _tqdm() -> Display:
    from callbax.tools._tqdm import Tqdm

    return Tqdm()


DisplayName = Literal["auto", "rich", "tqdm", "text", "none"]
NAMES = get_args(DisplayName)
DISPLAYS: dict[str, Callable[[], Display]] = {
    "rich": _rich,
    "tqdm": _tqdm,
    "text": Lines,
    "none": Silent,
}


def check(name: str) -> None:
    """Raises if there is no such display, or if what it needs is not installed."""
    if name not in NAMES:
        raise ValueError(f"display={name!r} is not one of {', '.join(map(repr, NAMES))}")
    if name in ("rich", "tqdm") and not _is_installed(name):
        raise ModuleNotFoundError(
            f"display={name!r} needs {name}, which is not installed: pip install 'callbax[progress]'",
            name=name,
        )


def resolve(name: str) -> str:
    """What "auto" means here and now."""
    if name != "auto":
        return name
    if _in_notebook():
        choices: tuple[str, ...] = ("tqdm", "rich")
    elif is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
        choices = ("rich", "tqdm")
    else:
        choices = ()
    return next((choice for choice in choices if _is_installed(choice)), "text")


def _in_notebook() -> bool:
    """Whether this is a kernel of Jupyter's, which shows widgets."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
