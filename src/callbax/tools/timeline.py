"""timeline: a trace of callbacks in the format of Chrome and Perfetto."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import callbax

_MICRO = 1e6
_SHORTEST = 2e-6  # seconds of waiting that are worth a box of their own
_CALLBACKS, _PROGRAMS = 1, 2  # "processes" of the trace


class TimelineWarning(UserWarning):
    """The file of a `callbax.tools.timeline` could not be written, or has not all calls.

    >>> import warnings
    >>> from callbax import tools
    >>> warnings.simplefilter("error", tools.TimelineWarning)  # an incomplete file is an error
    """


def timeline(
    path: str | os.PathLike[str], limit: int = 1_000_000
) -> contextlib._GeneratorContextManager[callbax.Recording]:
    """Writes a timeline of the callbacks in its block, to be opened in ui.perfetto.dev or Chrome.

    It shows each call on its thread, with its time for the GIL, lanes, bytes and whether it failed; and
    on several devices the runs of programs, from their first callback to their last. Calls count when
    they end, so wait for results and effects inside the block. The file is written when the block
    ends, also if it raises.

    Args:
      path: of the file, by custom "....json".
      limit: how many calls are kept; if there are more, the first ones are.

    Returns:
      A context manager that gives the `callbax.Recording` of the same calls.

    Raises:
      TypeError: `path` is not a path.
      OSError: when the block begins, if the file cannot be written. If that fails later, it is a
        TimelineWarning, as is a limit that was too low.

    >>> import jax, numpy as np, callbax as cb
    >>> from callbax import tools
    >>> sine = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with tools.timeline(f"{directory}/trace.json") as recording:
    ...         _ = sine(np.float32(1)).block_until_ready()
    >>> len(recording.calls)
    1
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            "callbax.tools.timeline takes the path of the file that it writes, as in "
            f'`with tools.timeline("trace.json"):`, but got {path!r}'
        )
    return _timeline(path, limit)


@contextlib.contextmanager
def _timeline(path: str | os.PathLike[str], limit: int) -> Iterator[callbax.Recording]:
    path = os.path.abspath(path)  # the block may change the directory
    recording = callbax.record_calls(limit)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"traceEvents": []}, file)
    try:
        with recording:
            yield recording
    finally:
        try:
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"traceEvents": _events(recording.calls)}, file)
        except OSError as error:
            message = f"the timeline {path} could not be written: {error}"
            warnings.warn(message, TimelineWarning, stacklevel=3)
    if recording.lost:
        message = (
            f"the timeline {path} has the first {len(recording.calls)} calls and lacks "
            f"{recording.lost}; record fewer steps, or give it a limit= that is larger"
        )
        warnings.warn(message, TimelineWarning, stacklevel=3)


def _events(calls: list[callbax.CallRecord]) -> list[dict[str, Any]]:
    events = [_name("process_name", _CALLBACKS, 0, "callbacks")]
    events.append(_name("process_name", _PROGRAMS, 0, "programs"))
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    for thread in sorted({call.thread for call in calls}):
        label = known.get(thread, f"thread {thread} of XLA")
        events.append(_name("thread_name", _CALLBACKS, thread, label))
    runs: dict[int, tuple[float, float]] = {}
    for call in calls:
        events += _of_call(call)
        if call.run is not None:
            begin, end = runs.get(call.run, (call.begin, call.end))
            runs[call.run] = min(begin, call.begin), max(end, call.end)
    for run, times in runs.items():
        for phase, time in zip("be", times, strict=True):
            shown = {"name": "run of a program", "cat": "program", "id": str(run)}
            events.append({**shown, "ph": phase, "pid": _PROGRAMS, "tid": 0, "ts": time * _MICRO})
    return events


def _of_call(call: callbax.CallRecord) -> list[dict[str, Any]]:
    place = {"ph": "X", "pid": _CALLBACKS, "tid": call.thread, "ts": call.begin * _MICRO}
    shown = {
        **place,
        "name": call.name,
        "cat": call.flavour,
        "dur": (call.end - call.begin) * _MICRO,
        "args": {
            "flavour": call.flavour,
            "calls": call.calls,
            "microseconds in Python": call.seconds * _MICRO,
            "microseconds waiting for the GIL": call.waiting * _MICRO,
            "bytes in": call.bytes_in,
            "bytes out": call.bytes_out,
            "failed": call.failed,
        },
    }
    if call.waiting < _SHORTEST:
        return [shown]
    waits = {**place, "name": "waits for the GIL", "cat": "GIL", "dur": call.waiting * _MICRO}
    return [shown, waits]


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}
