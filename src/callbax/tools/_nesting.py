"""What is known, while code is traced, of the loops with progress around it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from jax.extend.core import get_opaque_trace_state


class Nesting(threading.local):
    """The loops whose steps are being traced on this thread: key, trace, and whether to call."""

    def __init__(self) -> None:
        self._loops: list[tuple[str, Any, Any]] = []

    @property
    def level(self) -> int:
        """In how many loops the code is."""
        return len(self._loops)

    @contextlib.contextmanager
    def inside(self, key: str, due: Any) -> Iterator[None]:
        """Around the step of a loop that calls the host where `due` holds."""
        self._loops.append((key, get_opaque_trace_state(convention="flax"), due))
        try:
            yield
        finally:
            self._loops.pop()

    def due(self, key: str) -> Any:
        """Whether the loop of that Progress calls the host in this step.

        It is a value of the step's trace, and None elsewhere: what is traced inside, as a jitted
        function, may be used again in another place.
        """
        for known, trace, due in reversed(self._loops):
            if known == key:
                here = get_opaque_trace_state(convention="flax")
                return due if trace == here else None
        return None


nesting = Nesting()
