"""The gateway's part for JAX's profiler: when a profile begins and ends.

JAX keeps the profile that is being taken in an attribute of one object: `profile_session` in JAX 0.10,
`session` in 0.12. Its class is replaced by one that tells of each change. Where the object is not as
expected it stays as it is, and profiles then show no names of callbacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax._src import profiler as _profiler


def watch_profiles(changed: Callable[[bool], None]) -> bool:
    """Has `changed(whether a profile is being taken)` called. Whether JAX is as expected."""
    state = getattr(_profiler, "_profile_state", None)
    kind: Any = type(state)
    attributes = {"profile_session", "session"} & getattr(state, "__dict__", {}).keys()
    if len(attributes) != 1:
        return False

    class Watched(kind):  # type: ignore[misc, valid-type]
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name in attributes:
                changed(value is not None)

    state.__class__ = Watched  # type: ignore[union-attr, assignment]
    return True
