"""The stack of Python code that is being traced, and JAX's debugger, which shows it."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax._src import source_info_util, traceback_util
from jax._src.debugger import core

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = (PACKAGE, os.path.dirname(os.path.abspath(jax.__file__)) + os.sep)

# Operations are the user's: messages, profiles and programs name the line that called callbax, and
# tracebacks that JAX shortens show no frames of callbax either.
source_info_util.register_exclusion(PACKAGE)
traceback_util.register_exclusion(PACKAGE)

_filter = getattr(traceback_util, "filter_traceback", None)  # without it tracebacks are longer
_Function = TypeVar("_Function", bound=Callable[..., Any])


def api_boundary(function: _Function) -> _Function:
    """Has the traceback of an error lead from the line that calls `function` straight to the user's code.

    As JAX's decorator of this name, which is around what JAX compiles. But that adds a note, and so
    fails for exceptions that refuse attributes, and here a callback's own may come by.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if _filter is not None and jax.config.jax_traceback_filtering not in _WITH_ALL_FRAMES:
                BaseException.with_traceback(error, _filter(sys.exc_info()[2]))
            raise

    return call  # type: ignore[return-value]


_WITH_ALL_FRAMES = ("off", "remove_frames")  # values of JAX_TRACEBACK_FILTERING


def line_of_caller() -> tuple[str, int]:
    """File and line of the innermost frame that is neither callbax's nor JAX's."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def frames_of_caller(users_only: bool, most: int | None) -> list[Any]:
    """The frames above callbax, the innermost first. They are pytrees; their leaves are traced values.

    Args:
      users_only: leave out what JAX and libraries that ask for it keep out of tracebacks.
      most: how many to return.
    """
    stack = inspect.stack()
    while stack and _is_ours(stack[0]):
        stack.pop(0)
    if users_only:
        stack = [f for f in stack if traceback_util.include_frame(f.frame)]
    return list(map(core.DebuggerFrame.from_frameinfo, stack[:most]))


def _is_ours(frame: inspect.FrameInfo) -> bool:
    return frame.filename.startswith(PACKAGE)


def run_debugger(frames: Sequence[Any], backend: str | None, options: dict[str, Any]) -> None:
    """Starts a front end on these frames, one at a time in the process."""
    on_main = threading.current_thread() is threading.main_thread()
    with core.debug_lock:
        core.get_debugger(backend)(frames, None if on_main else threading.get_ident(), **options)
