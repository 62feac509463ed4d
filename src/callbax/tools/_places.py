"""Where a check stands in the code, which lanes of which device it has failed for, and notes about it."""

from __future__ import annotations

import os
import sys

import numpy as np

from callbax import debug

_TOOLS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MOST_LANES = 8


def line_of_caller() -> str:
    """File and line of the code that has called a tool."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_TOOLS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def describe_lanes(batch: debug.Batch) -> str:
    """The live lanes, as messages name them; empty where there is no batch.

    >>> describe_lanes(debug.Batch((4,), np.array([False, True, False, True]), None))
    'lanes 1, 3 of 4'
    """
    if not batch.sizes:
        return ""
    lanes = [
        str(lane[0] if len(lane) == 1 else tuple(lane)) for lane in np.argwhere(batch.live).tolist()
    ]
    shown = ", ".join(lanes[:_MOST_LANES]) + (", ..." if len(lanes) > _MOST_LANES else "")
    count = f"{len(lanes)} " if len(lanes) > _MOST_LANES else ""
    of = " x ".join(map(str, batch.sizes))
    return f"{count}lane{'s' if len(lanes) > 1 else ''} {shown} of {of}"


def describe_place(batch: debug.Batch) -> str:
    """The live lanes and the device, as far as there are any: ", in lane 3 of 8, on cpu:0"."""
    lanes = describe_lanes(batch)
    device = "" if batch.device is None else f", on {batch.device}"
    return (f", in {lanes}" if lanes else "") + device


def add_note(exception: BaseException, note: str) -> None:
    """Like the method, also for a class that refuses to set attributes, as frozen dataclasses do."""
    exception.__dict__["__notes__"] = [*exception.__dict__.get("__notes__", ()), note]
