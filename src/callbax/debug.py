"""Callbacks for looking into a program: `callbax.debug.callback` and `callbax.debug.print`."""

from callbax._callbacks.debug import debug_callback as callback
from callbax._callbacks.debug import debug_print as print

__all__ = ["callback", "print"]
