"""Functions that are told of each failure of a callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from callbax._runtime import exceptions, streams

_listeners: tuple[Callable[[BaseException], Any], ...] = ()


def on_failure(listener: Callable[[BaseException], Any]) -> Callable[[], None]:
    """Has `listener(exception)` called whenever a callback has failed.

    It is called on the thread of the callback, before the failure is logged and before the program
    ends. What it raises is shown on stderr, and changes nothing.

    Args:
      listener: a function of the exception that the callback has raised.

    Returns:
      A function without arguments that ends this.

    >>> import jax, callbax
    >>> def broken(x):
    ...     raise KeyError("lost")
    >>> stop = callbax.on_failure(lambda exception: print("failed:", repr(exception)))
    >>> try:
    ...     callbax.pure_callback(broken, jax.ShapeDtypeStruct((), "float32"), 1.0).block_until_ready()
    ... except jax.errors.JaxRuntimeError:
    ...     stop()
    failed: KeyError('lost')
    """
    global _listeners

    def told(exception: BaseException) -> Any:
        return listener(exception)

    def stop() -> None:
        global _listeners
        _listeners = tuple(other for other in _listeners if other is not told)

    _listeners = (*_listeners, told)
    return stop


def tell(exception: BaseException) -> None:
    """Calls all listeners; only an interrupt is let through."""
    for listener in _listeners:
        try:
            listener(exception)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - must not hide the callback's error
            streams.show(exceptions.format_exception(error))
