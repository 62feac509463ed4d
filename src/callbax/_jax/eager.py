"""The gateway's part for eager calls: one compiled program for each kind of call.

JAX's own eager calls go through Python twice, to make the parameters of the primitive and to find the
program by them; a jitted function is called from C++. So what an eager call of callbax's does is jitted
once for each key, of what the parameters will be made from, and found again by that key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import config as _config
from jax._src import core, util
from jax._src.array import ArrayImpl

# Values that jitted functions take as primitives do. Others (keys, Refs, objects that JAX can convert,
# or cannot) go to the primitive, whose errors name them as the user knows them.
_NUMBERS = frozenset({float, bool, complex})
_LARGEST_INT = 2**31
_SHARED_DTYPES = frozenset("?bhilqBHILQefdFD")  # of NumPy and JAX, by their characters


def is_eager(values: Sequence[Any]) -> bool:
    """Whether nothing is being traced here, and the values are arrays or numbers."""
    if core.trace_ctx.trace is not core.eval_trace:
        return False
    return all([type(value) is ArrayImpl or _is_number(value) for value in values])


def outside_of_traces() -> contextlib.AbstractContextManager[None]:
    """Around host code that runs while a program is traced: what JAX does in it is no part of that."""
    return core.eval_context()


def _is_number(value: Any) -> bool:
    kind = type(value)
    if kind is np.ndarray or issubclass(kind, np.generic):
        return value.dtype.char in _SHARED_DTYPES
    return kind in _NUMBERS or (kind is int and -_LARGEST_INT <= value < _LARGEST_INT)


# A cache as JAX's own are: by its settings, too; as large as that of its eager calls; and emptied by
# jax.clear_caches.
cached = util.cache(max_size=4096)


@cached
def program(name: str, make: Callable[..., Callable[..., Any]], *key: Any) -> Callable[..., Any]:
    """`make(*key)`, jitted under that name: the same one for equal keys and settings of JAX."""
    function = make(*key)

    def run(*args: Any) -> Any:
        with _config.eager_constant_folding(False):
            return function(*args)

    run.__name__ = run.__qualname__ = name
    run._apply_primitive = True  # type: ignore[attr-defined]  # in errors, JAX calls it by its name
    return jax.jit(run)
