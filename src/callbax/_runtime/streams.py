"""Writing to sys.stdout and sys.stderr, which may be anything: None, closed, a pipe without reader.

Daemons and programs without a console have None there, and users put objects of their own. What is
written here is news about something else, which must go on whether anybody reads the news or not;
only an interrupt is let through.
"""

from __future__ import annotations

import sys
from typing import Any


def show(text: str) -> None:
    """Writes a line to sys.stderr, if it takes one."""
    _try(getattr(sys, "stderr", None), "write", text + "\n")
    flush("stderr")


def flush(name: str) -> None:
    """Flushes sys.stdout or sys.stderr, if it can be."""
    _try(getattr(sys, name, None), "flush")


def _try(stream: Any, method: str, *args: Any) -> None:
    if stream is None:
        return
    try:
        getattr(stream, method)(*args)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - there is nobody left to tell
        return
