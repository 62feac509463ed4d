"""What a barrier waits for beside callbacks: functions that libraries have given."""

from __future__ import annotations

from callbax._runtime.listeners import Listeners

_functions = Listeners()
add = _functions.add


def call_all() -> list[Exception]:
    """Calls the functions, all of them; returns what they have raised."""
    errors = []
    for function in _functions:
        try:
            function()
        except Exception as error:  # noqa: BLE001 - the barrier raises it
            errors.append(error)
    return errors
