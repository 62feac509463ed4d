"""Callables around a host function, which change how it gets its arguments.

They are frozen and compare by content, as JAX reuses traces of equal callables only.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from callbax._errors import describe_function
from callbax._host_function import Hashable


@dataclasses.dataclass(frozen=True)
class _Wrapper:
    function: Hashable

    @property
    def callbax_description(self) -> str:
        return describe_function(self.function.value)


class KeywordsInOne(_Wrapper):
    """Takes (args, kwargs) as two arguments, for keywords that are options of the public functions."""

    def __call__(self, args: Any, kwargs: Any, **out: Any) -> Any:
        return self.function.value(*args, **kwargs, **out)


class JaxArrays(_Wrapper):
    """Hands the arguments on as jax Arrays, on the default device of the thread that calls."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = jax.tree.map(_to_jax, (args, kwargs))
        return self.function.value(*args, **kwargs)


def _to_jax(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
