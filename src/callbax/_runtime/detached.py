"""Effects on a GPU that their programs do not wait for: whether there are any, and waiting for them.

A thread of the native runtime calls them, in their order, when their operands have come (worker.h). What
they raise is kept for the next barrier, JAX's or callbax's: both wait for them.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Sequence

from callbax import _native
from callbax._jax import barriers
from callbax._runtime import failures

VARIABLE = "CALLBAX_DETACHED"
_SETTINGS = {"": None, "0": False, "1": True}
_POLL_SECONDS = 0.05

_PLATFORMS = ("cuda",)


def _read_setting() -> bool | None:
    text = os.environ.get(VARIABLE, "")
    if text not in _SETTINGS:
        raise ValueError(
            f"the environment variable {VARIABLE} must be '1' (programs on a GPU do not wait for effects "
            f"without results) or '0' (they do), but it is {text!r}"
        )
    return _SETTINGS[text]


# Read once: programs that are in JAX's caches have been lowered by it.
_setting = _read_setting()
_default = False


def set_default(is_on: bool) -> None:
    """Sets whether effects are detached if the environment does not say."""
    global _default
    _default = is_on


def is_on(platforms: Sequence[str]) -> bool:
    """Whether effects in a program for these platforms are detached. Then both barriers wait for them."""
    on = _default if _setting is None else _setting
    if not on or len(platforms) > 1 or platforms[0] not in _PLATFORMS:
        return False
    _extend_barriers()
    return True


@functools.cache
def _extend_barriers() -> None:
    barriers.extend_barriers(_finish)


def _finish() -> None:
    wait()
    failures.raise_pending()


def wait(seconds: float = math.inf) -> bool:
    """Waits for the calls that are detached so far. False on time-out. Signals are handled meanwhile."""
    end = time.monotonic() + seconds
    while not _native.await_detached(_POLL_SECONDS):
        if time.monotonic() > end:
            return False
    return True
