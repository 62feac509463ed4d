"""The display by rich: bars that stay below what the program prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from callbax.tools import _format
from callbax.tools._runs import Run
from callbax.tools._terminal import is_terminal

_BAR = (8, 40)  # the least and the greatest width
_STYLES = {"done": "green", "stopped": "red"}


class _Console(Console):
    """rich's own console ends the process when nobody reads its stream any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("nobody reads the bars any more")


class Rich:
    """Bars on the console of stderr."""

    def __init__(self, console: Console | None = None):
        self._console = console or _Console(stderr=True)
        self._live: Live | None = None

    def show(self, rows: Sequence[Run]) -> None:
        if self._live is None:
            # Printed text goes above the bars, on their terminal; what is sent elsewhere stays there.
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stdout=is_terminal(sys.stdout),
                redirect_stderr=True,
            )
            self._live.start()
        self._live.update(render(rows, self._console), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            if not self._console.is_terminal:
                self._console.line()  # where there is no terminal, the last line has no end


def render(rows: Sequence[Run], console: Console) -> Group:
    """A line for each run; its metrics have one of their own where they do not fit beside the bar."""
    columns = [_columns(run) for run in rows]
    widths = [max(len(row[i]) for row in columns) for i in range(len(columns[0]))]
    lines = []
    for run, row in zip(rows, columns, strict=True):
        label, *numbers = (
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.extend(_lines(run, label, "  ".join(filter(None, numbers)), console))
    return Group(*lines)


def _columns(run: Run) -> list[str]:
    indent = "  " * run.level if run.nested else ""
    label = indent + run.progress.title(run.device)
    return [label, _format.percent(run), _format.count(run), _format.times(run), _format.rate(run)]


def _lines(run: Run, label: str, numbers: str, console: Console) -> list[Text]:
    metrics = "  ".join(filter(None, (_format.metrics(run), _format.state(run))))
    room = console.width - len(label) - len(numbers) - 4
    least, most = _BAR
    beside = room - len(metrics) - 2 >= least
    width = max(least, min(most, room - len(metrics) - 2 if beside else room))
    style = _STYLES.get(run.state, "cyan")
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{label} " if label else "", style="bold")
    line.append_text(_bar(run, width, style, console))
    line.append(f" {numbers}")
    if beside and metrics:
        line.append(f"  {metrics}", style=style)
    if beside or not metrics:
        return [line]
    below = Text(" " * (len(label) + 1 if label else 2), no_wrap=True, overflow="ellipsis")
    return [line, below.append(metrics, style=style)]


def _bar(run: Run, width: int, style: str, console: Console) -> Text:
    full = "#" if console.options.ascii_only else "━"
    if run.fraction is None:  # a short piece that moves as steps are done
        position = 0 if run.has_ended else int(4 * run.elapsed) % (width - 3)
        parts = [(position, "bright_black"), (4, style), (width - position - 4, "bright_black")]
        if run.has_ended:
            parts = [(width, style)]
    else:
        filled = round(width * run.fraction)
        parts = [(filled, style), (width - filled, "bright_black")]
    empty = " " if console.options.ascii_only else full
    return Text.assemble(
        *(((full if kind == style else empty) * count, kind) for count, kind in parts)
    )
