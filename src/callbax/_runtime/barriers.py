"""What a barrier waits for beside callbacks: functions that libraries have given."""

from __future__ import annotations

import threading

from callbax._runtime.listeners import Listeners

_functions = Listeners("on_barrier")
add = _functions.add
_this_thread = threading.local()


def call_all() -> list[Exception]:
    """Calls the functions, all of them; returns what they have raised.

    One that waits for effects itself comes back here, and does not call them again.
    """
    errors: list[Exception] = []
    if getattr(_this_thread, "calls_them", False):
        return errors
    _this_thread.calls_them = True
    try:
        for function in _functions:
            try:
                function()
            except Exception as error:  # noqa: BLE001 - the barrier raises it
                errors.append(error)
    finally:
        _this_thread.calls_them = False
    return errors
