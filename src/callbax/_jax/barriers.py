"""The gateway's part for barriers: tokens of programs with effects, which JAX waits for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jax._src import dispatch

_wait_for_tokens = type(dispatch.runtime_tokens).block_until_ready


def wait_for_effects() -> None:
    """Waits for all effectful programs of this thread, and forgets them also if one has failed.

    `jax.effects_barrier` keeps the tokens of a failed program, so that it, and every ordered effect
    after it, fails again and again.
    """
    try:
        _wait_for_tokens(dispatch.runtime_tokens)
    finally:
        dispatch.runtime_tokens.clear()


def extend_barriers(function: Callable[[], Any]) -> None:
    """Has each `jax.effects_barrier` from now on call a function, when it has waited."""

    @functools.wraps(_wait_for_tokens)
    def wait(self: Any) -> None:
        _wait_for_tokens(self)
        function()

    type(dispatch.runtime_tokens).block_until_ready = wait  # type: ignore[method-assign]
