"""Exceptions of callbax, and how callables are named in messages.

CallbackError
├── CallbackResultError   what a callback returned does not fit result_shape_dtypes
├── CallbackViewError     a callback kept a view of XLA's memory
├── ExecutorError         an executor could not run the lanes that it was given
└── KernelError           a compiled kernel returned an error code
"""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from callbax._runtime.exceptions import is_a, notes_of, set_notes, type_name
from callbax._runtime.wrapper import Wrapper

logger = logging.getLogger("callbax")


class CallbackError(Exception):
    """Base of the exceptions that callbax itself raises.

    What a callback raises is none of them: `callbax.reraise` gives it back as it is.

    >>> import jax, numpy as np, callbax as cb
    >>> try:
    ...     with cb.reraise():
    ...         cb.pure_callback(lambda: np.zeros(3), jax.ShapeDtypeStruct((2,), np.float32))
    ... except cb.CallbackError as error:
    ...     print(type(error).__name__)
    CallbackResultError
    """


class CallbackResultError(CallbackError, RuntimeError):
    """What a callback returned does not fit its `result_shape_dtypes`.

    >>> import jax, numpy as np, callbax as cb
    >>> with cb.reraise():
    ...     cb.pure_callback(lambda: np.zeros(3), jax.ShapeDtypeStruct((2,), np.float32))
    Traceback (most recent call last):
    callbax.CallbackResultError: ...shape...
    """


class CallbackViewError(CallbackError, RuntimeError):
    """A callback kept a view of XLA's memory after it returned.

    >>> import jax.numpy as jnp, callbax as cb
    >>> kept = []
    >>> keeps = cb.external(lambda x: kept.append(x) or 1 * x, result=cb.like(0), zero_copy=True)
    >>> with cb.reraise():
    ...     keeps(jnp.zeros(100)).block_until_ready()
    Traceback (most recent call last):
    callbax.CallbackViewError: ...kept...
    """


class MissingDerivativeError(ValueError, NotImplementedError):
    """A compiled function has no derivative with respect to what is differentiated.

    It is a ValueError, as JAX raises for callbacks.

    >>> import jax, callbax as cb
    >>> jax.grad(cb.scipy.special.jv)(1.0, 2.0)
    Traceback (most recent call last):
    callbax.MissingDerivativeError: jv has no derivative with respect to argument 0...
    """


class ExecutorError(CallbackError, RuntimeError):
    """An executor could not run lanes: shut down, a worker died, something cannot be pickled.

    What the host function itself raises in a lane is raised as it is. `callbax.external` takes the
    executor.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import jax, jax.numpy as jnp, callbax as cb
    >>> ended = ThreadPoolExecutor(1)
    >>> ended.shutdown()
    >>> twice = cb.external(lambda x: 2 * x, result=cb.like(0), executor=ended)
    >>> with cb.reraise():
    ...     jax.vmap(twice)(jnp.arange(3.0)).block_until_ready()
    Traceback (most recent call last):
    callbax.ExecutorError: ...shutdown...
    """


class KernelError(CallbackError, RuntimeError):
    """A compiled kernel, which `callbax.native` has wrapped, returned an error code.

    Attributes:
      code: what it returned; 1 if it threw a C++ exception.

    >>> import callbax as cb
    >>> error = cb.KernelError("the kernel solve returned 3: no convergence", 3)
    >>> error.code
    3
    """

    def __init__(self, message: str, code: int):
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


for _error in (CallbackError, *CallbackError.__subclasses__(), MissingDerivativeError):
    _error.__module__ = "callbax"  # where users find them


def attribute(item: Any, name: str) -> Any:
    """The attribute, or None: a user's object may raise anything."""
    try:
        return getattr(item, name, None)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001
        return None


def describe_function(function: Callable[..., Any]) -> str:
    """The function's name, with file and line where it has them.

    >>> def f(): ...
    >>> describe_function(f)  # doctest: +ELLIPSIS
    'f (...:1)'
    """
    if is_a(function, Wrapper):
        return function.description  # type: ignore[attr-defined, no-any-return]
    while is_a(function, functools.partial):
        function = function.func  # type: ignore[attr-defined]
    names = (attribute(function, "__qualname__"), attribute(function, "__name__"))
    name = next((name for name in names if type(name) is str and name), type_name(function))
    code = attribute(function, "__code__")
    if type(code) is not types.CodeType:
        code = attribute(attribute(type(function), "__call__"), "__code__")
    if type(code) is not types.CodeType:
        return name
    return f"{name} ({code.co_filename}:{code.co_firstlineno})"


def full_name(flavour: str) -> str:
    """A flavour's public function with its package: callbax's, but for JAX's own."""
    return flavour if flavour.startswith("jax.") else f"callbax.{flavour}"


def describe_lanes(
    callback: str, sizes: Sequence[int], first: int | None = None, last: int | None = None
) -> str:
    """What messages call one lane of a batch, the lanes from one to another, or the whole call.

    >>> describe_lanes("f", (4,), 2), describe_lanes("f", (2, 3), 4, 5), describe_lanes("f", ())
    ('lane 2 of a batch of 4 of f', 'lanes (1, 1) to (1, 2) of a batch of 2 x 3 of f', 'the call of f')
    """
    if first is None or not sizes:
        return f"the call of {callback}"
    which = f"lane {_index(first, sizes)}"
    if last not in (None, first):
        which = f"lanes {_index(first, sizes)} to {_index(last, sizes)}"
    return f"{which} of a batch of {' x '.join(map(str, sizes))} of {callback}"


def outermost_first(lane: int, sizes: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """A lane of the runtime, whose first axis is that of the innermost `vmap`, as users count it."""
    index = np.unravel_index(lane, tuple(sizes)) if sizes else ()
    turned = tuple(reversed(sizes))
    return int(np.ravel_multi_index(index[::-1], turned)) if sizes else lane, turned


def _index(lane: int, sizes: Sequence[int]) -> Any:
    index = tuple(map(int, np.unravel_index(lane, tuple(sizes))))
    return index[0] if len(index) == 1 else index


def describe_arrays(arrays: Sequence[Any]) -> str:
    """Dtypes and shapes, as in "float32[2,3], int32[]"."""
    return ", ".join(f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in arrays)


def notes_its_calls(call: Any) -> bool:
    """Whether the exceptions of a host function say themselves from which call they come."""
    function = attribute(call, "function")
    return bool(is_a(function, Wrapper) and function.notes_its_calls)


def note_call(exception: BaseException, callback: str, place: str, arguments: str) -> None:
    """Says in a note in which call of a callback an exception came.

    Args:
      callback: its description.
      place: by `describe_lanes`.
      arguments: by `describe_arrays`.

    An object that a callback raises again and again has the note of the last time only.
    """
    what = f"with arguments {arguments}" if arguments else "without arguments"
    others = [n for n in notes_of(exception) if not _is_note_of(n, callback)]
    set_notes(exception, [*others, f"{_IN}{place}, {what}"])


_IN = "callbax: in "


def _is_note_of(note: Any, callback: str) -> bool:
    if type(note) is not str or not note.startswith(_IN) or "\n" in note:
        return False
    return f" of {callback}, with" in note
