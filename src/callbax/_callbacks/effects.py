"""Waiting for side effects."""

from __future__ import annotations

from callbax import _jax
from callbax._runtime import failures, pending, portable_calls, threads


def effects_barrier() -> None:
    """Waits until every dispatched callback with an effect has run, callbax's and JAX's.

    Errors that have not surfaced yet are raised here; the next barrier is clean.

    Raises:
      jax.errors.JaxRuntimeError: a callback failed; `callbax.original_exception` has its exception.

    >>> import jax, callbax
    >>> seen = []
    >>> jax.jit(lambda x: callbax.io_callback(seen.append, None, x))(1)
    >>> callbax.effects_barrier()
    >>> seen
    [array(1, dtype=int32)]
    """
    try:
        _jax.wait_for_effects()
        threads.finish_logging()
    except Exception as error:
        shown = portable_calls.without_jax_text(error)
        for message in pending.take():
            shown.add_note(f"Another callback failed before this surfaced: {message}")
        if shown is error:
            raise
        raise shown from None
    failures.raise_pending()
