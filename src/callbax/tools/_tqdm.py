"""The display by tqdm: widgets in notebooks, bars in terminals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm.auto import tqdm

from callbax.tools import _format
from callbax.tools._runs import Run
from callbax.tools._terminal import is_terminal


class Tqdm:
    """A bar of tqdm's for each run."""

    def __init__(self) -> None:
        self._bars: dict[int, Any] = {}
        self._streams: dict[str, Above] = {}

    def show(self, rows: Sequence[Run]) -> None:
        if not self._bars:
            self._redirect()
        with tqdm.get_lock():  # nothing is printed while a bar is half made
            for run in rows:
                if run.number not in self._bars:
                    self._bars[run.number] = self._make(run)
                bar = self._bars[run.number]
                bar.n = run.done
                shown = filter(None, (_format.metrics(run), _format.state(run)))
                bar.set_postfix_str("  ".join(shown), refresh=False)
                bar.refresh(nolock=True)
            for number in self._bars.keys() - {run.number for run in rows}:
                self._bars.pop(number).close()

    def _make(self, run: Run) -> Any:
        bar = tqdm(
            total=run.total,
            desc=run.progress.title(run.device) or None,
            leave=not run.nested,
            dynamic_ncols=True,
            file=self._stderr,
        )
        bar.start_t -= run.elapsed
        return bar

    def print(self, stream: Any, text: str) -> None:
        """Writes whole lines above the bars."""
        with tqdm.get_lock():
            bars = list(self._bars.values())
            for bar in bars:
                bar.clear(nolock=True)
            stream.write(text)
            stream.flush()
            for bar in bars:
                bar.refresh(nolock=True)

    @property
    def _stderr(self) -> Any:
        return self._streams["stderr"].stream if "stderr" in self._streams else sys.stderr

    def _redirect(self) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if is_terminal(stream):
                self._streams[name] = Above(stream, self.print)
                setattr(sys, name, self._streams[name])

    def close(self) -> None:
        bars, self._bars = self._bars, {}
        for bar in bars.values():
            bar.close()
        streams, self._streams = self._streams, {}
        for name, stream in streams.items():
            stream.finish()
            if getattr(sys, name) is stream:
                setattr(sys, name, stream.stream)


class Above:
    """A stream to a terminal whose text goes, line by line, above the bars."""

    def __init__(self, stream: Any, print_above: Callable[[Any, str], None]):
        self.stream = stream
        self._print = print_above
        self._rest = ""

    def write(self, text: str) -> int:
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            self._print(self.stream, lines + newline)
        return len(text)

    def finish(self) -> None:
        """Writes what is left of a last line."""
        if self._rest:
            self.stream.write(self._rest)
            self._rest = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
