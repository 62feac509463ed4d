"""Waiting for side effects."""

from __future__ import annotations

from collections.abc import Callable

from callbax._jax import barriers as tokens
from callbax._runtime import (
    barriers,
    detached,
    exceptions,
    failures,
    pending,
    portable_calls,
    threads,
)


def effects_barrier() -> None:
    """Waits until every dispatched callback with an effect has run, callbax's and JAX's.

    Then it calls the functions that `on_barrier` was given, such as those that flush logs. Errors that
    have not surfaced yet are raised here; the next barrier is clean.

    Raises:
      jax.errors.JaxRuntimeError: a callback failed; `callbax.original_exception` has its exception.
      Exception: what a function of `on_barrier` has raised.

    >>> import jax, callbax
    >>> seen = []
    >>> jax.jit(lambda x: callbax.io_callback(seen.append, None, x))(1)
    >>> callbax.effects_barrier()
    >>> seen
    [array(1, dtype=int32)]
    """
    try:
        _wait_for_callbacks()
    except Exception as error:
        for other in barriers.call_all():
            error.add_note(_failed_as_well(other))
        raise
    errors = barriers.call_all()
    if errors:
        for other in errors[1:]:
            errors[0].add_note(_failed_as_well(other))
        raise errors[0]


def _failed_as_well(error: Exception) -> str:
    text = exceptions.text_of(error)
    return f"A function of on_barrier failed as well: {exceptions.type_name(error)}: {text}"


def on_barrier(function: Callable[[], object]) -> Callable[[], None]:
    """Makes each `effects_barrier` from now on call a function, once all callbacks have run.

    For what callbacks hand to others, and what has to be done before a barrier may return: rows that a
    thread writes, messages that are sent. At the end of the process it is called, too.

    Args:
      function: called without arguments, on the thread of the barrier. If it raises, the barrier does,
        after it has called the other functions.

    Returns:
      A function that ends this.

    Raises:
      TypeError: `function` cannot be called.

    >>> import callbax
    >>> end = callbax.on_barrier(lambda: print("flushed"))
    >>> callbax.effects_barrier()
    flushed
    >>> end()
    >>> callbax.effects_barrier()
    """
    return barriers.add(function)


def _wait_for_callbacks() -> None:
    try:
        tokens.wait_for_effects()
        detached.wait()
        threads.finish_logging()
    except Exception as error:
        shown = portable_calls.without_jax_text(error)
        for message in pending.take():
            shown.add_note(f"Another callback failed before this surfaced: {message}")
        if shown is error:
            raise
        raise shown from None
    failures.raise_pending()
