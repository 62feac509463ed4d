"""What a barrier waits for beside callbacks: functions that libraries have given."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from callbax._runtime import threads

_lock = threads.new_lock()
_functions: dict[int, Callable[[], object]] = {}  # in the order of their registration
_numbers = itertools.count()


def add(function: Callable[[], object]) -> Callable[[], None]:
    """Each barrier calls the function from now on, until what is returned here is called."""
    with _lock:
        number = next(_numbers)
        _functions[number] = function

    def remove() -> None:
        _functions.pop(number, None)

    return remove


def call_all() -> list[Exception]:
    """Calls the functions, all of them; returns what they have raised."""
    errors = []
    with _lock:
        functions = list(_functions.values())
    for function in functions:
        try:
            function()
        except Exception as error:  # noqa: BLE001 - the barrier raises it
            errors.append(error)
    return errors
