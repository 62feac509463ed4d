"""A part of the gateway to JAX's private modules: what JAX writes into its persistent cache.

JAX 0.10 to 0.12 write a compiled program by `compiler._cache_write`, and ask nobody. It is wrapped in
processes that have exported a program with a callback that only they have: compiled here, such a
program has a name in it that no other process will ever write, so nothing can hit its entry, and
the folder would grow at each start. Where JAX is otherwise made, it writes as it likes.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from jax._src import compiler

_marks: set[str] = set()


def keep_out_of_cache(mark: str) -> None:
    """From now on, programs that have this text in them are not written into the cache."""
    _marks.add(mark)
    _install()


@functools.cache
def _install() -> bool:
    """Whether JAX's function was as expected, and has been wrapped."""
    write = getattr(compiler, "_cache_write", None)
    caller = getattr(compiler, "_compile_and_write_cache", None)
    code = getattr(caller, "__code__", None)
    if not inspect.isfunction(write) or code is None or "_cache_write" not in code.co_names:
        return False
    signature = inspect.signature(write)
    if "executable" not in signature.parameters:
        return False

    @functools.wraps(write)
    def write_unless_marked(*args: Any, **kwargs: Any) -> None:
        if not _is_marked(signature.bind(*args, **kwargs).arguments["executable"]):
            write(*args, **kwargs)

    compiler._cache_write = write_unless_marked
    return True


def _is_marked(executable: Any) -> bool:
    try:
        texts = [module.to_string() for module in executable.hlo_modules()]
    except Exception:  # noqa: BLE001 - an executable that does not show its text is written
        return False
    return any(mark in text for text in texts for mark in _marks)
