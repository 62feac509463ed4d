"""Callables around a host function that change what it gets, or what of its result is taken."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.tree_util import all_leaves

from callbax import _native
from callbax._host import libraries, trust
from callbax._host.function import Around, Hashable
from callbax._runtime.errors import CallbackResultError
from callbax._runtime.exceptions import is_a
from callbax._runtime.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class WithArrays(Around):
    """A host function that gets its arguments as arrays of another library, and may return such.

    Attributes:
      library: whose arrays, as in `libraries.NAMES`.
      on_device: they are XLA's memory, of the CPU or of a GPU.
      out: it gets arrays for its results as `out`, and returns these or None.
    """

    library: str = "jax"
    on_device: bool = False
    out: bool = False

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        library = libraries.find(self.library)
        gpu = _native.device_of_call() if self.on_device else None
        with contextlib.nullcontext() if gpu is None else library.on_stream(*gpu):
            args = tuple(_give(library, arg) for arg in args)
            kwargs = {name: _give(library, arg) for name, arg in kwargs.items()}
            value = self.function.value(*args, **kwargs)
            if self.out and _is_same(value, kwargs["out"]):
                return None
            stream = None if gpu is None else gpu[1]
            if all_leaves([value]):
                return library.take(value, stream)
            return jax.tree.map(lambda leaf: library.take(leaf, stream), value)

    def around(self, function: Any) -> WithArrays:
        """The same around another function."""
        return dataclasses.replace(self, function=Hashable(function))

    @property
    def description(self) -> str:
        inside: Any = self.function.value
        return inside.description if is_a(inside, Wrapper) else super().description

    @property
    def host_function(self) -> Any:
        return trust.host_function(self.function.value)

    @property
    def device_library(self) -> str | None:
        return self.library if self.on_device else None

    @property
    def program_name(self) -> dict[str, Any] | None:
        inside: Any = self.function.value
        if is_a(inside, Wrapper):
            name = inside.program_name
        else:
            path = trust.stable_path(inside)
            name = None if path is None else {"function": path}
        if name is None:
            return None
        on_device, out = self.on_device, self.out
        return {"arrays": self.library, "on_device": on_device, "out": out, "of": name}


def _give(library: libraries.Library, tree: Any) -> Any:
    if isinstance(tree, (np.ndarray, _native.DeviceArray)):
        return library.give(tree)
    return tree if all_leaves([tree]) else jax.tree.map(functools.partial(_give, library), tree)


def _is_same(value: Any, out: Any) -> bool:
    """Whether a function has returned nothing, or the arrays that it was to write to."""
    return value is None or [*map(id, jax.tree.leaves(value))] == [*map(id, jax.tree.leaves(out))]


@dataclasses.dataclass(frozen=True)
class ResultOnly(Around):
    """A host function that returns a pair, of its result and an object; this returns the result.

    Attributes:
      name: its given name, if it has one.
      objects: where the object goes; by default, nowhere.
    """

    name: str | None = None
    objects: list[Any] | None = dataclasses.field(default=None, compare=False)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        pair = self.function.value(*args, **kwargs)
        if type(pair) is not tuple or len(pair) != 2:
            raise CallbackResultError(
                f"{self.description} must return the tuple (result, object), as its def_host_vjp has "
                f"residuals=True, but it returned {_kind_of(pair)}"
            )
        if self.objects is not None:
            self.objects.append(pair[1])
        return pair[0]

    @property
    def program_name(self) -> dict[str, Any] | None:
        path = trust.stable_path(self.function.value)
        if self.name is None and path is None:
            return None
        owner = {"function": path} if self.name is None else {"named": self.name}
        return {"result_of": owner}


def _kind_of(value: Any) -> str:
    if type(value) is tuple:
        return f"a tuple of {len(value)}"
    return f"an object of type {type(value).__name__}"
