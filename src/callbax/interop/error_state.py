"""What to do about floating-point errors in compiled loops: NumPy's and SciPy's error states.

The state is read where a function is called, in a traced function thus while it is traced, and is a
part of the program from then on. That of the thread which happens to run the program would be
another one, as each thread has its own. NumPy's default, which warns, means silence here, as
everywhere else in JAX; any other state is honoured as NumPy honours it.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import threading
import warnings
import weakref
from typing import Any

import numpy as np

from callbax import _names, _native

_DEFAULT = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
# The bits that the runtime gives, and what NumPy calls them.
_ERRORS = (
    (1, "divide", "divide by zero"),
    (2, "over", "overflow"),
    (4, "under", "underflow"),
    (8, "invalid", "invalid value"),
)

_numbers = itertools.count()
_states: weakref.WeakValueDictionary[str, ErrorState] = weakref.WeakValueDictionary()
_local = threading.local()


@dataclasses.dataclass(frozen=True, eq=False)
class Callback:
    """The function or log of numpy.seterrcall, or None. A log may be a list: it has no hash."""

    target: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Callback) and self.target is other.target

    def __hash__(self) -> int:
        return id(self.target)

    def hear(self, name: str, description: str, flags: int) -> None:
        if not callable(self.target):
            raise NameError(
                f'numpy.errstate says "call" for {name} ({description}), but numpy.seterrcall has '
                "been given no function in this process"
            )
        self.target(description, flags)

    def log(self, name: str, message: str) -> None:
        if not hasattr(self.target, "write"):
            raise NameError(
                f'numpy.errstate says "log" for {name} ({message}), but numpy.seterrcall has been '
                "given no object with a write method in this process"
            )
        self.target.write(f"Warning: {message}\n")


@dataclasses.dataclass(frozen=True)
class ErrorState:
    """NumPy's state and SciPy's; an empty one is the default. A parameter of the primitive."""

    numpy: tuple[tuple[str, str], ...]
    special: tuple[tuple[str, str], ...]
    call: Callback | None = None

    def text(self, *, exporting: bool) -> str:
        """As an attribute of a program. A function in it has a number that only this process has."""
        parts = [f"{name}={mode}" for name, mode in self.numpy]
        parts += [f"special.{name}={mode}" for name, mode in self.special]
        if self.call is not None:
            number = self.__dict__.setdefault("_number", str(next(_numbers)))
            if exporting:
                number = f"{_names.mark_of_process()}-{number}"
                _names.warn_of_export("the function or log of numpy.seterrcall")
            _states[number] = self
            parts.append(f"call={number}")
        return ",".join(parts)

    @classmethod
    def parse(cls, text: str) -> ErrorState:
        pairs = [part.split("=") for part in text.split(",")]
        numbers = [value for name, value in pairs if name == "call"]
        if numbers and numbers[0] in _states:
            return _states[numbers[0]]
        return cls(
            numpy=tuple((name, mode) for name, mode in pairs if name in _DEFAULT),
            special=tuple(
                (name.removeprefix("special."), mode)
                for name, mode in pairs
                if name.startswith("special.")
            ),
            call=Callback(None) if numbers else None,
        )


def current(source: Any) -> ErrorState | None:
    """The state of this thread, or None if it is the default."""
    modes = np.geterr()
    numpy = tuple(modes.items()) if modes != _DEFAULT else ()
    special = _special_state() if (source.path or "").startswith("scipy.special") else ()
    if not numpy and not special:
        return None
    hears = {"call", "log"} & set(modes.values())
    return ErrorState(numpy, special, Callback(np.geterrcall()) if hears else None)  # type: ignore[arg-type]


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
            case "warn":
                warnings.warn(message, RuntimeWarning, stacklevel=1)
            case "call" if state.call is not None:
                state.call.hear(name, description, flags)
            case "log" if state.call is not None:
                state.call.log(name, message)
            case "print":
                print(f"Warning: {message}")


_native.set_loop_hooks(enter, leave, judge)
