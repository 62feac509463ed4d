"""What to do about floating-point errors in compiled loops: NumPy's and SciPy's error states.

The state is read where a function is called, so in a traced function while it is traced, and is a part
of the program from then on. The thread that happens to run the program has a state of its own, which
would be another one. NumPy's default, which warns, means silence here, as
everywhere else in JAX. In any other state "ignore", "warn" and "raise" mean what they mean in NumPy;
"call", "log" and "print" would need the object of numpy.seterrcall in the program, and warn instead.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import warnings
from typing import Any

import numpy as np

from callbax import _native

_DEFAULT = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
# The bits that the runtime gives, and what NumPy calls them.
_ERRORS = (
    (1, "divide", "divide by zero"),
    (2, "over", "overflow"),
    (4, "under", "underflow"),
    (8, "invalid", "invalid value"),
)

_local = threading.local()


@dataclasses.dataclass(frozen=True)
class ErrorState:
    """NumPy's state and SciPy's; an empty one is the default. A parameter of the primitive."""

    numpy: tuple[tuple[str, str], ...]
    special: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """As an attribute of a program."""
        parts = [f"{name}={mode}" for name, mode in self.numpy]
        parts += [f"special.{name}={mode}" for name, mode in self.special]
        return ",".join(parts)

    @classmethod
    def parse(cls, text: str) -> ErrorState:
        pairs = [part.split("=") for part in text.split(",")]
        return cls(
            numpy=tuple((name, mode) for name, mode in pairs if name in _DEFAULT),
            special=tuple(
                (name.removeprefix("special."), mode)
                for name, mode in pairs
                if name.startswith("special.")
            ),
        )


def current(path: str | None) -> ErrorState | None:
    """The state of this thread for the ufunc of that path, or None if it is the default."""
    modes = np.geterr()
    numpy = tuple(modes.items()) if modes != _DEFAULT else ()
    special = _special_state() if (path or "").startswith("scipy.special") else ()
    return ErrorState(numpy, special) if numpy or special else None  # type: ignore[arg-type]


def _special_state() -> tuple[tuple[str, str], ...]:
    modes = sys.modules["scipy.special"].geterr()
    default = all(
        mode == ("raise" if name == "memory" else "ignore") for name, mode in modes.items()
    )
    return () if default else tuple(modes.items())


def enter(text: str) -> None:
    """On each thread before a loop that is checked (called by the runtime)."""
    state = ErrorState.parse(text)
    if state.special:
        special = sys.modules["scipy.special"]
        _local.outer = [*getattr(_local, "outer", []), special.seterr(**dict(state.special))]


def leave(text: str) -> None:
    """On each thread after it."""
    if ErrorState.parse(text).special and getattr(_local, "outer", None):
        sys.modules["scipy.special"].seterr(**_local.outer.pop())


def judge(loop: Any, text: str, flags: int) -> None:
    """Does what the state says about the errors of a loop that has run (called by the runtime).

    Raises:
      FloatingPointError: it says "raise".
    """
    state = ErrorState.parse(text)
    modes = dict(state.numpy)
    for bit, name, description in _ERRORS:
        if not flags & bit:
            continue
        message = f"{description} encountered in {loop.source.name}"
        match modes.get(name, "ignore"):
            case "raise":
                raise FloatingPointError(message)
            case "warn" | "call" | "log" | "print":
                warnings.warn(message, RuntimeWarning, stacklevel=1)


_native.set_loop_hooks(enter, leave, judge)
