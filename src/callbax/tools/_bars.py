"""Bars: all runs of this process, and the displays that show them.

Programs on any thread begin, advance and end runs; a thread of its own paints them, ten times a
second. What changes a run's numbers takes no lock: the painter may be a step behind. What adds or
ends a run, and each painting, holds the one lock, which is reentrant, since an interrupt or a
display may print, and so come back here. A display that raises is given up, and says so once.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import callbax
from callbax.tools import _displays
from callbax.tools._runs import Described, Run

logger = logging.getLogger("callbax.tools")

_SECONDS = 0.1  # between paintings
_MOST_KEPT = 64  # stopped runs, which go on if it was another program that has failed


class Bars:
    """All runs, by number, and the displays in use, by kind."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._runs: dict[int, Run] = {}
        # Of each Progress, and each device, the run that began last and has not ended.
        self.innermost: dict[tuple[str, int | None], Run] = {}
        self._rows: dict[str, list[Run]] = {}  # of each kind of display
        self._displays: dict[str, _displays.Display] = {}
        self._broken: set[str] = set()
        self._wake = threading.Event()
        self._painter: threading.Thread | None = None

    def find(self, number: int) -> Run | None:
        return self._runs.get(number)

    def _find_innermost(self, key: str, device: int | None) -> None:
        runs = (run for run in reversed(self._runs.values()) if not run.has_ended)
        found = next((run for run in runs if (run.key, run.device) == (key, device)), None)
        if found is None:
            self.innermost.pop((key, device), None)
        else:
            self.innermost[key, device] = found

    def open(
        self,
        key: str,
        progress: Described,
        total: int | None,
        *,
        level: int = 0,
        device: int | None = None,
        of_loop: bool = True,
    ) -> Run:
        with self._lock:
            number = next(self._numbers) % 2**31
            run = Run(number, key, progress, total, level, device, of_loop)
            self._runs[number] = self.innermost[key, device] = run
            stopped = [old for old in self._runs.values() if old.state == "stopped"]
            for old in stopped[:-_MOST_KEPT]:
                del self._runs[old.number]
            return run

    def begin(self, run: Run) -> None:
        """Shows a run from now on; also one that was believed to have ended."""
        with self._lock:
            if run.state == "running":
                return
            if not run.started:
                run.start()
                run.nested = any(self._is_around(other, run) for other in self._runs.values())
            run.resume()
            self._find_innermost(run.key, run.device)
            kind = _displays.resolve(run.progress.display)
            rows = self._rows.setdefault(kind, [])
            if run not in rows:
                rows.append(run)
                rows.sort(key=lambda row: (row.nested and row.level, row.number))
            self._start_painter()
            self._wake.set()

    def _is_around(self, other: Run, run: Run) -> bool:
        return other.level < run.level and not other.has_ended

    def end(self, run: Run) -> None:
        """The loop has come to its end."""
        with self._lock:
            if not run.started:
                self.begin(run)
            run.end("done")
            self._runs.pop(run.number, None)
            self._find_innermost(run.key, run.device)
            self._settle()

    def end_counted(self, key: str) -> None:
        """Ends the runs of that Progress that no loop ends."""
        with self._lock:
            for run in list(self._runs.values()):
                if run.key == key and not run.of_loop and not run.has_ended:
                    self.end(run)

    def stop(self, *_: Any) -> None:
        """Ends all runs, as a program has failed; a run of another program goes on at its next step."""
        with self._lock:
            for run in list(self._runs.values()):
                if run.state == "running":
                    run.end("stopped")
                elif run.state == "open":
                    run.state = "stopped"
            self.innermost.clear()
            self._settle()

    def leave(self, number: int) -> None:
        """An exception has left the loop of that run, which may not have begun."""
        with self._lock:
            run = self._runs.get(number)
            if run is None:
                return
            if run.state == "open":
                del self._runs[number]
            else:
                run.end("stopped")
            self._find_innermost(run.key, run.device)
            self._settle()

    def _settle(self) -> None:
        """Takes what has ended from the displays; closes those that have nothing left to show."""
        for kind, rows in self._rows.items():
            rows[:] = [run for run in rows if not (run.nested and run.state == "done")]
            if rows and all(run.has_ended for run in rows):
                self._paint(kind, rows, last=True)
                rows.clear()

    def paint(self) -> None:
        with self._lock:
            for kind, rows in self._rows.items():
                if rows:
                    self._paint(kind, rows)

    def _paint(self, kind: str, rows: list[Run], last: bool = False) -> None:
        if kind in self._broken:
            return
        try:
            if kind not in self._displays:
                self._displays[kind] = _displays.DISPLAYS[kind]()
            display = self._displays[kind]
            display.show(rows)
            if last:
                display.close()
        except Exception as error:  # noqa: BLE001 - it never fails the program that it shows
            self._broken.add(kind)
            with contextlib.suppress(Exception):
                self._displays[kind].close()
            reason = f"{type(error).__name__}: {error}"
            _warn(f"The progress display {kind!r} has failed, and is off from now on: {reason}")

    def _start_painter(self) -> None:
        if self._painter is None:
            self._painter = threading.Thread(
                target=self._paint_regularly, name="callbax-progress", daemon=True
            )
            self._painter.start()

    def _paint_regularly(self) -> None:
        pause = threading.Event()
        while True:
            self._wake.wait()
            pause.wait(_SECONDS)
            with self._lock:
                self.paint()
                if not any(self._rows.values()):
                    self._wake.clear()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Around what a program calls: a failure is logged, and is not the program's."""
        try:
            yield
        except Exception:  # noqa: BLE001 - it never fails the program
            _warn("Progress could not be noted", exc_info=True)


def _warn(message: str, **options: Any) -> None:
    """In the log; its handlers may fail as well, as that of a closed stderr does."""
    with contextlib.suppress(Exception):
        logger.warning("%s", message, **options)


bars = Bars()


def _forget() -> None:
    """In a forked child, which has no painter: the runs are the parent's."""
    bars.__init__()  # type: ignore[misc]


callbax.on_failure(lambda error: bars.stop())
atexit.register(lambda: bars.stop())
os.register_at_fork(after_in_child=_forget)
