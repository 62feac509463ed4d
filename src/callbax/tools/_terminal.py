"""What is known of the streams that a program writes to."""

from __future__ import annotations

from typing import Any


def is_terminal(stream: Any) -> bool:
    """Whether a stream is shown in a terminal; it may be missing or closed."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False
