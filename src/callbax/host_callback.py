"""JAX's former `jax.experimental.host_callback` on callbax's runtime: taps and calls.

For programs that were written for it, and for taps that see whole batches. New code has
`callbax.io_callback`, `callbax.pure_callback` and `callbax.debug`, which every other page is about.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from callbax import _jax
from callbax._callbacks import effects, primitives
from callbax._callbacks.flavours import CALL
from callbax._callbacks.results import check_callable, flatten_result_spec
from callbax._host.call import HostCall
from callbax._host.function import Hashable
from callbax._host_callback.functions import Call, Tap
from callbax._host_callback.printing import Printer
from callbax._host_callback.tapped import tap
from callbax._jax import frames
from callbax._runtime.errors import CallbackError
from callbax._runtime.failures import original_exception

__all__ = ["CallbackException", "barrier_wait", "call", "id_print", "id_tap"]

_logger = logging.getLogger(__name__)


def __dir__() -> list[str]:
    return __all__


class CallbackException(CallbackError):
    """A tap function failed, says `callbax.host_callback.barrier_wait`.

    >>> import jax, jax.numpy as jnp
    >>> from callbax import host_callback as hcb
    >>> jax.jit(lambda x: hcb.id_tap(lambda x, transforms: 1 / 0, x))(jnp.ones(2)).shape
    (2,)
    >>> hcb.barrier_wait()
    Traceback (most recent call last):
    callbax.host_callback.CallbackException: ...
    """


@frames.api_boundary
def id_tap(
    tap_func: Callable[..., Any],
    arg: Any,
    *,
    result: Any = None,
    tap_with_device: bool = False,
    device_index: int = 0,
    **kwargs: Any,
) -> Any:
    """Calls a Python function on the host with a value of the program; returns the value.

    Taps and calls run in the program's order on each device, once for each execution, whether or not
    anything uses what they return. Autodiff passes them by: primal values are tapped. Under vmap one
    call gets the whole batch.

    Args:
      tap_func: called as `tap_func(arg, transforms)`, with NumPy arrays in the structure of `arg`, and
        the transformations that JAX applied to them, in order: `("batch", {"batch_dims": dims})` with
        the batch axis of each array, or None; `("transpose", {})` if they are cotangents. What it
        returns is ignored. If it raises, the program goes on, and `barrier_wait` raises.
      arg: a pytree of arrays.
      result: what is returned, if it is not None: a pytree of arrays, which the host never sees.
      tap_with_device: the function is called with one more argument, `device=`: a `jax.Device`.
      device_index: in a program that the compiler distributes, the number of the device that calls,
        with the whole values. Where each device runs the program on its own, as in `jax.pmap` and
        `jax.shard_map`, each calls.
      **kwargs: refused; there are no others.

    Returns:
      `arg`, or `result`, as jax Arrays.

    Raises:
      TypeError: `tap_func` cannot be called; a leaf of `arg` or `result` is not an array; there are
        other keyword arguments.
      ValueError: the program has no device with that number.

    >>> import jax, callbax
    >>> def show(x, transforms):
    ...     print(x, transforms)
    >>> y = jax.vmap(lambda x: callbax.host_callback.id_tap(show, 2 * x))(jax.numpy.arange(3))
    [0 2 4] (('batch', {'batch_dims': (0,)}),)
    """
    if kwargs:
        raise TypeError(
            f"id_tap got unexpected keyword arguments: {', '.join(kwargs)}. To hand them to the tap "
            "function, give functools.partial(tap_func, ...) instead."
        )
    check_callable("host_callback.id_tap", tap_func)
    tapped = tap(_informed(Tap, tap_func, tap_with_device, device_index), _arrays("arg", arg))
    return tapped if result is None else _arrays("result", result)


@frames.api_boundary
def id_print(
    arg: Any,
    *,
    result: Any = None,
    tap_with_device: bool = False,
    device_index: int = 0,
    output_stream: Any = None,
    threshold: int | None = 1024,
    **kwargs: Any,
) -> Any:
    """Prints a value of the program; returns it. It is `id_tap` with a function that prints.

    Args:
      arg, result, tap_with_device, device_index: as for `id_tap`.
      output_stream: an object whose `write` gets each line, instead of standard output.
      threshold: how many elements an array has at most that is shown in full, see
        `numpy.array2string`.
      **kwargs: shown in a line in front, sorted by name, together with `transforms` and `device`
        where there are any.

    Returns:
      `arg`, or `result`, as jax Arrays.

    Raises:
      TypeError: as from `id_tap`.

    >>> import jax, callbax
    >>> def power3(x):
    ...     x, y = callbax.host_callback.id_print((x, x * x), what="x,x^2")
    ...     return x * y
    >>> jax.grad(power3)(3.0)
    what: x,x^2
    ( 3. 9. )
    Array(27., dtype=float32, weak_type=True)
    """
    shown = tuple((name, Hashable(value)) for name, value in kwargs.items())
    return id_tap(
        Printer(Hashable(output_stream), threshold, shown),
        arg,
        result=result,
        tap_with_device=tap_with_device,
        device_index=device_index,
    )


@frames.api_boundary
def call(
    callback_func: Callable[..., Any],
    arg: Any,
    *,
    result_shape: Any = None,
    call_with_device: bool = False,
    device_index: int = 0,
) -> Any:
    """Calls a Python function on the host, and returns its result to the program.

    It runs once for each execution, in the program's order among taps and calls on a device. JAX can
    neither differentiate it nor `vmap` it: use `jax.custom_jvp`, `jax.custom_vjp`,
    `jax.custom_batching`, or `callbax.external`.

    Args:
      callback_func: called as `callback_func(arg)`, with NumPy arrays in the structure of `arg`.
      arg: a pytree of arrays.
      result_shape: a pytree of numbers, or objects with a shape and a dtype, in the structure of the
        result. Dtypes are those that JAX has for them: 32 bits, unless x64 is enabled.
      call_with_device, device_index: as `tap_with_device` and `device_index` of `id_tap`.

    Returns:
      The result, as jax Arrays.

    Raises:
      TypeError: `callback_func` cannot be called; a leaf of `arg` is not an array; a leaf of
        `result_shape` says no shape and dtype.
      ValueError: the program has no device with that number; a differentiated value reaches the call.
      NotImplementedError: a batch reaches the call.
      jax.errors.JaxRuntimeError: the function failed, or its result has another structure, shape or
        dtype; see `callbax.original_exception`.

    >>> import jax, numpy as np, callbax
    >>> m = np.diag(np.float32([1, 2]))
    >>> shape = jax.ShapeDtypeStruct((2,), np.float32)
    >>> jax.jit(lambda m: callbax.host_callback.call(np.linalg.eigvalsh, m, result_shape=shape))(m)
    Array([1., 2.], dtype=float32)
    """
    check_callable("host_callback.call", callback_func)
    spec = jax.tree.map(_struct, result_shape)
    avals, tree = flatten_result_spec(spec, callback_func, "result_shape")
    function = _informed(Call, callback_func, call_with_device, device_index, tree)
    host_call, values = HostCall.from_arguments(function, (_arrays("arg", arg),), {})
    return tree.unflatten(primitives.bind(CALL, host_call, values, avals, ordered=True))


def barrier_wait(logging_name: str | None = None) -> None:
    """Waits until all taps and calls of the programs that were started have run.

    It waits for every other callback, too: see `callbax.effects_barrier`.

    Args:
      logging_name: names this wait in messages of the logger `callbax.host_callback`, at level DEBUG.

    Raises:
      CallbackException: a tap function has failed since the last barrier. The message has the
        traceback of each, and the first is the cause.

    >>> import callbax
    >>> y = callbax.host_callback.id_tap(lambda x, transforms: 1 // x.item(), 0)
    >>> try:
    ...     callbax.host_callback.barrier_wait()
    ... except callbax.host_callback.CallbackException as error:
    ...     print(repr(error.__cause__))
    ZeroDivisionError('integer division or modulo by zero')
    """
    name = "" if logging_name is None else f" {logging_name}"
    _logger.debug("barrier_wait%s: start", name)
    try:
        effects.effects_barrier()
    except Exception as error:  # noqa: BLE001 - what a barrier raises, whoever's it is
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        cause = original_exception(error) or error
        raise CallbackException(f"Host callbacks have failed.\n{text}") from cause
    _logger.debug("barrier_wait%s: done", name)


def _informed(kind: Any, function: Any, with_device: bool, device_index: int, *more: Any) -> Any:
    if not isinstance(device_index, int) or device_index < 0:
        raise ValueError(f"device_index must be the number of a device, but is {device_index!r}")
    return kind(Hashable(function), bool(with_device), device_index, *more)


def _arrays(name: str, tree: Any) -> Any:
    """`tree`, with arrays of JAX's as leaves."""

    def to_array(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return leaf
        if not _jax.is_array_like(leaf):
            raise TypeError(
                f"{name} must be a pytree of arrays, but has {leaf!r} of type {type(leaf).__name__} in it"
            )
        return jnp.asarray(leaf)

    return jax.tree.map(to_array, tree)


def _struct(leaf: Any) -> Any:
    """The struct that a leaf of result_shape describes, with a dtype that JAX has now."""
    if isinstance(leaf, (bool, int, float, complex)):
        return jax.ShapeDtypeStruct((), jnp.result_type(leaf))
    dtype = getattr(leaf, "dtype", None)
    if not isinstance(dtype, np.dtype) or isinstance(leaf, type):
        return leaf  # what is not a struct is refused, by a message that names it
    return jax.ShapeDtypeStruct(np.shape(leaf), _jax.canonical_dtype(dtype))
