"""Functions that are called when something happens; among them those told of each failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from callbax._runtime import exceptions, streams


class Listeners:
    """Functions that a public function has been given, in the order in which they were added.

    Each method is one step under the GIL, so there is no lock: a garbage collection, which comes in the
    middle of anything, may take a function away.
    """

    def __init__(self, given_to: str) -> None:
        self._given_to = given_to
        self._functions: dict[object, Callable[..., Any]] = {}

    def add(self, function: Callable[..., Any]) -> Callable[[], None]:
        """Adds a function, which may be there already; returns what takes it away."""
        if not callable(function):
            raise TypeError(
                f"the argument of callbax.{self._given_to} must be callable, but got an object of type "
                f"{type(function)}"
            )
        key = object()
        self._functions[key] = function

        def remove() -> None:
            self._functions.pop(key, None)

        return remove

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        """Those that are there now, whatever is added or removed meanwhile."""
        return iter(list(self._functions.values()))


_of_failures = Listeners("on_failure")


def on_failure(listener: Callable[[BaseException], Any]) -> Callable[[], None]:
    """Has `listener(exception)` called whenever a callback has failed.

    It is called on the thread of the callback, before the failure is logged and before the program
    ends. What it raises is shown on stderr, and changes nothing.

    Args:
      listener: a function of the exception that the callback has raised.

    Returns:
      A function without arguments that ends this.

    Raises:
      TypeError: `listener` cannot be called.

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
    return _of_failures.add(listener)


def tell(exception: BaseException) -> None:
    """Calls all listeners; only an interrupt is let through."""
    for listener in _of_failures:
        try:
            listener(exception)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - must not hide the callback's error
            streams.show(exceptions.format_exception(error))
