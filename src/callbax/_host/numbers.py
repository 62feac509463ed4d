"""Numbers that tell apart the callees of this process that are called the same."""

from __future__ import annotations

from collections.abc import Callable

# The newest number for each label: as a rule the next one is free, and none below it.
_newest: dict[str, int] = {}
_MOST_LABELS = 1024


def free_number(label: str, is_free: Callable[[int], bool]) -> int:
    """The number after the label's newest one if that is taken, else the lowest that is easily found."""
    newest = _newest.get(label)
    if newest is not None and not is_free(newest) and is_free(newest + 1):
        number = newest + 1
    else:
        number = _first(is_free)
    if len(_newest) == _MOST_LABELS:
        _newest.clear()
    _newest[label] = number
    return number


def _first(is_free: Callable[[int], bool]) -> int:
    """A free number after one that is taken, or 0; found in few steps among many that are taken."""
    if is_free(0):
        return 0
    taken, free = 0, 1
    while not is_free(free):
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (taken, middle) if is_free(middle) else (middle, free)
    return free
