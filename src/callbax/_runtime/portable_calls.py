"""Calls of host code through JAX's own callbacks, where callbax has no native runtime.

Only the way there is JAX's. The call itself is that of the native runtime, over the NumPy arrays that
JAX hands out and takes back: arguments that are safe to keep, lanes, conversion of results, errors,
the caller's settings.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from callbax import _jax
from callbax._jax import python_callbacks
from callbax._runtime import exceptions, nested


class PortableCall:
    """One call in a program, as JAX calls it. It runs no JAX, which may be waiting for it."""

    def __init__(
        self, site: Any, results: Sequence[tuple[tuple[int, ...], np.dtype]], platform: str
    ):
        self._site = site
        self._results = results
        # A thread that has called a program for another platform must not come back to it in the
        # callback: the platform may be waiting for the callback.
        self._surroundings = contextlib.nullcontext if platform == "cpu" else nested.on_cpu

    def __call__(self, *operands: Any) -> tuple[np.ndarray, ...]:
        arguments = [np.asarray(operand, order="C") for operand in operands]
        results = [np.empty(shape, dtype) for shape, dtype in self._results]
        with self._surroundings():
            failure = self._site(arguments, results)
        if failure is not None:
            raise RuntimeError(failure)
        return tuple(results)


def emit(
    ctx: Any,
    operands: Sequence[Any],
    make_site: Callable[[dict[str, Any]], Any],
    attributes: dict[str, Any],
    description: str,
    *,
    reason: str,
    effect: Any = None,
    has_side_effect: bool = False,
    partitioned: bool = False,
    sharding: Any = None,
) -> list[Any]:
    """Emits a call.

    Args:
      make_site: the class of the native module for this kind of call.
      attributes: what it takes, as in a native call.
      description: what messages call the callee.
      reason: why it is not a native call.
      effect, has_side_effect, partitioned, sharding: see `python_callbacks.emit`.

    Raises:
      NotImplementedError: JAX has no callbacks there.
    """
    (platform,) = ctx.module_context.platforms
    if _jax.is_exporting(ctx):
        raise NotImplementedError(
            f"{description} is in a program that is exported for {platform} alone: {reason}, and JAX's "
            "own callbacks, which are used there, exist in this process only. Export it for platforms "
            "that include cpu, where it then works."
        )
    call = PortableCall(make_site(attributes), python_callbacks.result_arrays(ctx), platform)
    try:
        return python_callbacks.emit(
            ctx,
            call,
            operands,
            effect=effect,
            has_side_effect=has_side_effect,
            partitioned=partitioned,
            sharding=sharding,
        )
    except Exception as error:
        raise NotImplementedError(
            f"{description} cannot be called from a program that is compiled here for {platform}: "
            f"{reason}, so it goes through JAX's own callbacks, and JAX says: "
            f"{str(error).rstrip('.')}. Run the part that calls it on a CPU device, for instance "
            "under jax.default_device(jax.devices('cpu')[0])."
        ) from error


# What JAX's own callbacks put in front of the message of what they have called.
_JAX_TEXT = re.compile(
    r"(?<=^INTERNAL: ).*?error calling callback: .*?\n\w+: (?=callbax\.)", re.DOTALL
)


def without_jax_text(error: BaseException) -> BaseException:
    """The error without what JAX says of calling callbax, where it has done that."""
    if not exceptions.is_a(error, jax.errors.JaxRuntimeError):
        return error
    text = exceptions.text_of(error)
    shown = _JAX_TEXT.sub("", text)
    if shown == text:
        return error
    return jax.errors.JaxRuntimeError(shown).with_traceback(error.__traceback__)
