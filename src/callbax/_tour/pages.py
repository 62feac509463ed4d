"""Where the tour and the benchmarks write: a terminal with rich, plain text, or Markdown.

Plain text is for pipes, files, and installations without rich.
"""

from __future__ import annotations

import itertools
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any


def _figures(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns hold figures: one in every cell that is not empty."""
    return [
        all(any(map(str.isdigit, row[i])) for row in rows if row[i]) for i in range(len(columns))
    ]


_GAP = "  "


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], available: int) -> list[int]:
    """The columns' widths; the widest are made narrower until they fit, if their words do."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    least = [
        max(map(len, " ".join(column).split()), default=0)
        for column in zip(columns, *rows, strict=True)
    ]
    figures = _figures(columns, rows)
    while sum(widths) > available:
        wide = [(width, i) for i, width in enumerate(widths) if width > least[i] and not figures[i]]
        if not wide:
            break
        widths[max(wide)[1]] -= 1
    return widths


def open_page() -> Page:
    """The page for standard output: coloured if it is a terminal and rich is there."""
    try:
        from rich.console import Console
    except ImportError:
        return Page()
    from rich.theme import Theme

    console = Console(highlight=False, theme=Theme({"markdown.code": "cyan"}))
    return RichPage(console) if console.is_terminal else Page()


class Page:
    """Plain text, which reads well anywhere."""

    def __init__(self) -> None:
        self._width = min(100, shutil.get_terminal_size((100, 24)).columns)

    def title(self, text: str) -> None:
        print(f"\n{text}\n{'=' * len(text)}")

    def heading(self, text: str) -> None:
        print(f"\n{text}\n{'-' * len(text)}")

    def paragraph(self, text: str) -> None:
        for part in text.split("\n\n"):
            print("\n" + textwrap.fill(" ".join(part.split()), self._width))

    def code(self, text: str) -> None:
        print("\n" + textwrap.indent(text, "    "))

    def output(self, text: str) -> None:
        print("\n" + textwrap.indent(text, "  | ", lambda line: True))

    def failure(self, text: str) -> None:
        print("\n" + textwrap.indent(text, "  ! ", lambda line: True))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        """A table; columns of figures are set right. A narrow page breaks lines between words."""
        widths = _widths(columns, rows, self._width - len(_GAP) * (len(columns) - 1))
        right = _figures(columns, rows)

        def print_row(cells: Sequence[str]) -> None:
            wrapped = [textwrap.wrap(c, width) for c, width in zip(cells, widths, strict=True)]
            for line in itertools.zip_longest(*wrapped, fillvalue=""):
                set_cells = (
                    cell.rjust(width) if figures else cell.ljust(width)
                    for cell, width, figures in zip(line, widths, right, strict=True)
                )
                print(_GAP.join(set_cells).rstrip())

        print(f"\n{caption}\n" if caption else "")
        print_row(columns)
        print(_GAP.join("-" * width for width in widths))
        for row in rows:
            print_row(row)


class MarkdownPage(Page):
    """For files such as benchmarks/README.md."""

    def title(self, text: str) -> None:
        print(f"\n## {text}")

    def heading(self, text: str) -> None:
        print(f"\n### {text}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        if caption:
            print(f"\n**{caption}**")
        print("\n| " + " | ".join(columns) + " |")
        print("|" + "|".join("--:" if right else "---" for right in _figures(columns, rows)) + "|")
        for row in rows:
            print("| " + " | ".join(row) + " |")


class RichPage(Page):
    """A terminal with colours."""

    def __init__(self, console: Any):
        self._console = console

    def title(self, text: str) -> None:
        from rich.rule import Rule

        self._console.print("", Rule(f"[bold cyan]{text}", style="cyan"), sep="\n")

    def heading(self, text: str) -> None:
        self._console.print(f"\n● {text}", style="bold", markup=False)

    def paragraph(self, text: str) -> None:
        from rich.markdown import Markdown

        self._console.print("", Markdown(text), sep="\n")

    def code(self, text: str) -> None:
        from rich.panel import Panel
        from rich.syntax import Syntax

        syntax = Syntax(
            text, "python", theme="ansi_dark", background_color="default", word_wrap=True
        )
        self._console.print("", Panel(syntax, border_style="dim"), sep="\n")

    def output(self, text: str) -> None:
        self._bar(text, "green")

    def failure(self, text: str) -> None:
        self._bar(text, "bold red")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=caption or None, title_justify="left", title_style="bold")
        borders = 3 * len(columns) + 1
        widths = _widths(columns, rows, self._console.width - borders)
        for column, width, right in zip(columns, widths, _figures(columns, rows), strict=True):
            table.add_column(Text(column), justify="right" if right else "left", width=width)
        for row in rows:
            table.add_row(*map(Text, row))
        self._console.print("", table, sep="\n")

    def _bar(self, text: str, style: str) -> None:
        from rich.text import Text

        self._console.print()
        for line in text.splitlines():
            self._console.print(Text.assemble(("  ▌ ", style), line), soft_wrap=True)
