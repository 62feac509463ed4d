"""What a host function returned, as the arrays that were promised: structure, shapes, dtypes.

Every route comes here: what the runtime does not take directly, lanes of all kinds, tasks of other
processes, self-tests. The runtime takes by itself only what this would take.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from callbax import _native
from callbax._host.call import HostCall
from callbax._host.function import Casting
from callbax._runtime.errors import CallbackResultError


def convert_results(
    call: HostCall,
    value: Any,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[np.dtype],
    canonicalize: bool,
    casting: Casting,
) -> list[np.ndarray]:
    """The leaves of what a callback returned, as arrays of just the expected shapes and dtypes.

    `canonicalize` says that 64-bit values may be narrowed, as JAX does while x64 is off. The phrases
    of the messages are those of JAX, which user code matches on.
    """
    call.check_structure(value)
    leaves = jax.tree.leaves(value)
    declared = call.declared
    if len(leaves) != len(shapes):
        raise CallbackResultError(
            f"Mismatched number of outputs from callback. Expected: {len(shapes)}, "
            f"Actual: {len(leaves)}. The callback {call} returned a value of type "
            f"{type(value).__name__}; return one array for each leaf of {declared} (a list or "
            "tuple counts as several results: numpy.asarray makes it one)." + _advice_on(value)
        )
    arrays = []
    for i, (leaf, shape, dtype) in enumerate(zip(leaves, shapes, dtypes, strict=True)):
        array = _converted(leaf, dtype, canonicalize, casting)
        if array.dtype.kind in "OSUMm":
            raise CallbackResultError(
                f"Incorrect output dtype for return value #{i}: Expected: {dtype}, Actual: "
                f"{array.dtype}. The callback {call} returned a value of type {type(leaf).__name__}, "
                f"which is not an array of numbers; {declared} says what it must be."
                + _advice_on(leaf)
            )
        if array.shape != shape:
            raise CallbackResultError(
                f"Incorrect output shape for return value #{i}: Expected: {shape}, "
                f"Actual: {array.shape}. Returned by the callback {call}; reshape the result, or "
                f"change {declared}.{_advice(call)}"
            )
        if array.dtype != dtype:
            raise CallbackResultError(
                f"Incorrect output dtype for return value #{i}: Expected: {dtype}, "
                f"Actual: {array.dtype}. Returned by the callback {call}; convert the result with "
                f"{_conversion(leaf)}{str(dtype)!r}), or change {declared}."
            )
        # Equal dtypes may be different C types (long and long long): the runtime wants this one.
        arrays.append(array.view(dtype) if array.dtype is not dtype else array)
    return arrays


def convert_returned(
    call: HostCall,
    value: Any,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[np.dtype],
    canonicalize: bool,
    casting: Casting | Literal[""],
) -> list[np.ndarray]:
    """`convert_results` for the runtime, which knows itself what has been written in place."""
    if call.out is not None:
        raise call.not_out(value)
    return convert_results(call, value, shapes, dtypes, canonicalize, casting or "none")


def _advice(call: HostCall) -> str:
    if call.external not in ("expand_dims", "broadcast_all"):
        return ""
    return (
        f" With vmap_method={call.external!r} it gets all lanes of a batch in one call, in front of "
        "each array, and returns them so; 'sequential' calls it for each lane."
    )


def _advice_on(leaf: Any) -> str:
    if leaf is None:
        return " It may lack a return statement."
    is_coroutine = inspect.iscoroutine(leaf)
    return " An async function is not awaited: call it with asyncio.run." if is_coroutine else ""


def _conversion(leaf: Any) -> str:
    return "numpy.asarray(..., " if type(leaf) in _PYTHON_NUMBERS else ".astype("


def _converted(leaf: Any, dtype: np.dtype, canonicalize: bool, casting: Casting) -> Any:
    """`leaf` as an array; of the dtype, if it may be converted to that.

    A DeviceArray is on a GPU, and stays there as it is.
    """
    if isinstance(leaf, _native.DeviceArray):
        return leaf
    if dtype == jax.dtypes.float0:
        casting = "none"  # nothing is converted to it, nor is it to anything
    if casting != "none" and type(leaf) in _PYTHON_NUMBERS:
        number = _of_python_number(leaf, dtype)
        if number is not None:
            return number
        if type(leaf) is int and np.issubdtype(dtype, np.integer):
            return np.asarray(leaf)  # it does not fit, and must not wrap around
    array = np.asarray(leaf)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype in (dtype, jax.dtypes.float0) or array.dtype.kind in "OSUMm":
        return array
    if casting != "none":
        exact = _exact(array, dtype)
        if exact is not None:
            return exact
    narrow = array
    if canonicalize:
        narrow = array.astype(_NARROWED.get(array.dtype, array.dtype), copy=False)
    if casting != "none":
        for candidate in (array, narrow):
            if np.can_cast(candidate.dtype, dtype, casting):
                return candidate.astype(dtype)
    return narrow


# What JAX does to values while x64 is off (jax.dtypes.canonicalize_dtype).
_NARROWED = {
    np.dtype("float64"): np.dtype("float32"),
    np.dtype("complex128"): np.dtype("complex64"),
    np.dtype("int64"): np.dtype("int32"),
    np.dtype("uint64"): np.dtype("uint32"),
}

_PYTHON_NUMBERS = (bool, int, float, complex)
_KINDS = (np.bool_, np.integer, np.floating, np.complexfloating)


def _kind(dtype: Any) -> int:
    return next(i for i, kind in enumerate(_KINDS) if jnp.issubdtype(dtype, kind))


def _of_python_number(number: Any, dtype: np.dtype) -> np.ndarray | None:
    """The number in the dtype, which it has by JAX's promotion; None if it would have another."""
    kind = _kind(dtype)
    if _PYTHON_NUMBERS.index(type(number)) > kind:
        return None
    if type(number) is int:
        if kind == 1 and not jnp.iinfo(dtype).min <= number <= jnp.iinfo(dtype).max:
            return None
        if kind > 1:
            try:
                number = float(number)  # dtypes that are not NumPy's own take no large integers
            except OverflowError:
                return None
    return np.asarray(number).astype(dtype)


def _exact(array: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Integers as floating-point or complex numbers, if each is the same number there."""
    if _kind(array.dtype) > 1 or _kind(dtype) < 2:
        return None
    with np.errstate(all="ignore"):
        converted = array.astype(dtype)
    wide = np.float64 if _kind(dtype) == 2 else np.complex128
    is_exact = array.size == 0 or (
        np.abs(array.astype(np.float64)).max() < _EXACT and (converted.astype(wide) == array).all()
    )
    return converted if is_exact else None


_EXACT = 2.0**53  # below it, float64 holds all integers
