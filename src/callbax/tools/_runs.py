"""Run: one run of a loop on the host, how far it is and what it has reported."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Literal, Protocol

# The program calls again after so many seconds, but after so many steps at most: the next ones may
# be slow.
TICK_SECONDS = 1e-3
MOST_STEPS = 64


class Described(Protocol):
    """What a Progress says of its bars."""

    @property
    def display(self) -> str:
        """The display that is asked for."""

    def title(self, device: int | None) -> str:
        """The label, for that device."""


@dataclasses.dataclass(eq=False)
class Run:
    """One run of a loop, or of what `Progress.step` counts.

    Attributes:
      key: the text of its Progress, equal for equal ones.
      level: in how many loops the program was seen to be, when it was traced.
      device: the number of the device, if each shows its own.
      of_loop: whether a loop counts its steps; if not, the reports of metrics do.
      nested: whether it began inside another run.
      state: "open" until the first step begins; "stopped" if it has failed or was left.
    """

    number: int
    key: str
    progress: Described
    total: int | None
    level: int
    device: int | None
    of_loop: bool
    nested: bool = False
    done: int = 0
    state: Literal["open", "running", "done", "stopped"] = "open"
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    started: float = 0.0
    ended: float | None = None
    _last: float = 0.0

    @property
    def has_ended(self) -> bool:
        return self.state in ("done", "stopped")

    def start(self) -> None:
        self.started = self._last = time.perf_counter()
        self.resume()

    def resume(self) -> None:
        self.state, self.ended = "running", None

    def end(self, state: Literal["done", "stopped"]) -> None:
        if not self.started:
            self.start()
        self.state, self.ended = state, time.perf_counter()

    def tick(self, done: int) -> int:
        """Notes that so many steps are done; returns at which one the loop shall call again."""
        now = time.perf_counter()
        taken, steps = now - self._last, done - self.done
        self.done, self._last = done, now
        following = done + 1
        if taken < TICK_SECONDS * steps:
            following = done + min(MOST_STEPS, int(TICK_SECONDS * steps / max(taken, 1e-9)))
        if self.total is not None and done < self.total - 1:
            following = min(following, self.total - 1)  # what the last step reports is shown
        return following

    @property
    def elapsed(self) -> float:
        if not self.started:
            return 0.0
        return (time.perf_counter() if self.ended is None else self.ended) - self.started

    @property
    def fraction(self) -> float | None:
        if self.total is None:
            return None
        return min(1.0, self.done / self.total) if self.total else 1.0

    @property
    def rate(self) -> float | None:
        """Steps per second."""
        elapsed = self.elapsed
        return self.done / elapsed if self.done and elapsed > 0 else None

    @property
    def remaining(self) -> float | None:
        """Seconds."""
        rate = self.rate
        if self.total is None or rate is None:
            return None
        return max(0, self.total - self.done) / rate
