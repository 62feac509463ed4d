"""Waiting for side effects."""

from __future__ import annotations

from callbax import _jax
from callbax._runtime import failures, threads


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
        if error.args and isinstance(error.args[0], str):
            error.args = (failures.without_jax_text(error.args[0]), *error.args[1:])
        for message in failures.take_pending():
            error.add_note(f"Another callback failed before this surfaced: {message}")
        raise
    failures.raise_pending()
