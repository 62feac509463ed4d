"""Whether JAX's callbacks run on callbax's runtime, and what they get: for the process, and for a thread.

The setting is a part of the key of JAX's caches, as `jax.enable_x64` is. So a program that was traced
under another setting is not taken for this one, and is found again once the setting is back.
"""

from __future__ import annotations

from typing import Any, Literal

import jax

from callbax._runtime import threads

# What callbacks get: NumPy arrays, or jax Arrays as from JAX.
Arguments = Literal["numpy", "jax"]

_lock = threads.new_lock()
# Made at the first use, since another part of the key is one that no program so far has.
_context: Any = None


def context() -> Any:
    """JAX's context that has the setting; `context()(value)` sets it for a block and a thread."""
    global _context
    with _lock:
        if _context is None:
            _context = jax.make_user_context(None)
    return _context


def arguments() -> Arguments | None:
    """What JAX's callbacks get where this is called, or None if they are left to JAX."""
    return None if _context is None else _context.value
