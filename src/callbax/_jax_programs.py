"""The gateway's part for compiled programs: which of them hold callbacks, and what is in them."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from typing import Any

from jax._src.interpreters import pxla
from jax._src.lib import _jax as _jaxlib


def _programs(is_kept: Callable[[Any], bool]) -> Iterator[Any]:
    """The compiled programs that keep an item alive for which `is_kept` holds."""
    for item in gc.get_objects():
        if type(item) is pxla.ExecuteReplicated and any(map(is_kept, item.keepalive or ())):
            yield item


def disable_programs(marker_types: tuple[type, ...], message: str) -> None:
    """Makes every compiled program that keeps one of these types alive raise `message` when called.

    For forked children only: XLA's threads do not exist there, so the call would never return.
    JAX's C++ caches of all programs are emptied, since they would bypass what is changed here; they
    fill again from JAX's Python caches, without compiling anything.
    """

    def refuse(args: Any) -> Any:
        raise RuntimeError(message)

    for program in _programs(lambda kept: isinstance(kept, marker_types)):
        program.in_handler = refuse
    _jaxlib.PjitFunctionCache.clear_all()


_COLLECTIVE = re.compile(r"\b(all-\w|collective-\w|reduce-scatter|ragged-all-\w|(send|recv)\()")


def devices_wait_for_each_other(marker_types: tuple[type, ...], call: Any) -> bool:
    """Whether some program that keeps a marker of `call` has collectives, as far as known."""
    programs = list(
        _programs(lambda kept: isinstance(kept, marker_types) and kept.target == call)  # type: ignore[attr-defined]
    )
    return not programs or any(
        _COLLECTIVE.search(module.to_string())
        for program in programs
        for module in program.xla_executable.hlo_modules()
    )
