"""Which runtime calls host code, by the platform that a program is compiled for."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence

NATIVE = "native"  # callbax's own
PORTABLE = "portable"  # JAX's callbacks, which call callbax's

VARIABLE = "CALLBAX_RUNTIME"
_HAVE_NATIVE = ("cpu",)


def _read_setting() -> str:
    setting = os.environ.get(VARIABLE, "") or NATIVE
    if setting not in (NATIVE, PORTABLE):
        raise ValueError(
            f"the environment variable {VARIABLE} must be {NATIVE!r} (callbax's own runtime, where "
            f"there is one) or {PORTABLE!r} (JAX's callbacks everywhere), but it is {setting!r}"
        )
    return setting


# Read once: programs that are in JAX's caches have been lowered by it.
_setting = _read_setting()


@dataclasses.dataclass(frozen=True)
class Runtime:
    """The runtime of a program, and why it is that one."""

    name: str
    reason: str

    @property
    def is_native(self) -> bool:
        return self.name == NATIVE


def runtime_of(platforms: Sequence[str], *, exporting: bool = False) -> Runtime:
    """The runtime of a program for these platforms, as JAX names them ("cpu", "cuda", "tpu", ...).

    A program for several platforms, or one that is exported, cannot depend on callbacks of JAX's in
    this process, so it has native calls: they run where there is a native runtime.
    """
    return _runtime_of(tuple(platforms), exporting, _setting)


@functools.cache
def _runtime_of(platforms: tuple[str, ...], exporting: bool, setting: str) -> Runtime:
    native = [platform for platform in platforms if platform in _HAVE_NATIVE]
    if len(platforms) > 1:
        return Runtime(NATIVE, "the program is for several platforms")
    if not native:
        return Runtime(PORTABLE, f"callbax has no native runtime for {platforms[0]}")
    if exporting:
        return Runtime(NATIVE, "the program is exported")
    if setting == PORTABLE:
        return Runtime(PORTABLE, f"{VARIABLE} is {PORTABLE!r}")
    return Runtime(NATIVE, f"callbax has a native runtime for {platforms[0]}")
