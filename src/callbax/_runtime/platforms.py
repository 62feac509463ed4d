"""Which runtime calls host code, by the platform that a program is compiled for."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Sequence

from callbax import _native

NATIVE = "native"  # callbax's own
PORTABLE = "portable"  # JAX's callbacks, which call callbax's
_BY_PLATFORM = ""  # what is not set

VARIABLE = "CALLBAX_RUNTIME"

# Where callbax has a runtime of its own.
_HAVE_NATIVE = ("cpu", "cuda")


def _read_setting() -> str:
    setting = os.environ.get(VARIABLE, _BY_PLATFORM)
    if setting not in (_BY_PLATFORM, NATIVE, PORTABLE):
        raise ValueError(
            f"the environment variable {VARIABLE} must be {NATIVE!r} (callbax's own runtime, where "
            f"there is one) or {PORTABLE!r} (JAX's callbacks everywhere), but it is {setting!r}"
        )
    return setting


# Read once: programs that are in JAX's caches have been lowered by it.
_setting = _read_setting()


@dataclasses.dataclass(frozen=True)
class Runtime:
    """The runtime of a program, and why it is that one.

    Attributes:
      refused: whether there is a native one, and it cannot run here.
    """

    name: str
    reason: str
    refused: bool = False

    @property
    def is_native(self) -> bool:
        return self.name == NATIVE


def runtime_of(platforms: Sequence[str], *, exporting: bool = False) -> Runtime:
    """The runtime of a program for these platforms, as JAX names them ("cpu", "cuda", "tpu", ...).

    A program for several platforms, or one that is exported, cannot depend on callbacks of JAX's in
    this process, so it has native calls: they run where there is a native runtime.

    Warns once if there is a native one, and it cannot run here.
    """
    runtime = choice(platforms, exporting=exporting)
    if runtime.refused:
        _warn(
            f"callbacks go through JAX's own on {platforms[0]}: {runtime.reason}. "
            f"{VARIABLE}={PORTABLE!r} chooses them without a warning."
        )
    return runtime


def choice(platforms: Sequence[str], *, exporting: bool = False) -> Runtime:
    """What `runtime_of` returns, without a warning."""
    return _choice(tuple(platforms), exporting, _setting)


@functools.cache
def _choice(platforms: tuple[str, ...], exporting: bool, setting: str) -> Runtime:
    if len(platforms) > 1:
        return Runtime(NATIVE, "the program is for several platforms")
    (platform,) = platforms
    if platform not in _HAVE_NATIVE:
        return Runtime(PORTABLE, f"callbax has no native runtime for {platform}")
    if exporting:
        return Runtime(NATIVE, "the program is exported")
    if setting == PORTABLE:
        return Runtime(PORTABLE, f"{VARIABLE} is {PORTABLE!r}")
    if platform == "cuda" and (problem := _native.cuda_problem()):
        return Runtime(PORTABLE, f"callbax's own runtime cannot run: {problem}", refused=True)
    return Runtime(NATIVE, f"callbax has a native runtime for {platform}")


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
