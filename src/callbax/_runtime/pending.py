"""Messages of errors that no call has raised, kept until a barrier does."""

from __future__ import annotations

from callbax._runtime import threads

_MOST = 64

_lock = threads.new_lock()
_messages: list[str] = []
_uncounted = 0  # those that came when there were too many


def add(message: str) -> None:
    global _uncounted
    with _lock:
        if len(_messages) < _MOST:
            _messages.append(message)
        else:
            _uncounted += 1


def forget(text: str) -> None:
    """Forgets those that an error with this text has brought to the user."""
    with _lock:
        _messages[:] = [message for message in _messages if message not in text]


def take() -> list[str]:
    """The messages, the oldest first, which are then forgotten."""
    global _uncounted
    with _lock:
        taken = _messages.copy()
        _messages.clear()
        more, _uncounted = _uncounted, 0
    return [*taken, f"{more} more, which the log has"] if more else taken
