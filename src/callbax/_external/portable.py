"""Lanes as a task for an executor, in this process or in another.

A task is a callable, a `Portable`, and a `Chunk` of lanes. In this process it calls the host function
as it is. Only if an executor pickles it does it become a `Shipped`, which finds the function again on
the other side: by the path that it can be imported from, past the External that has its name there;
or by what pickle, or cloudpickle, makes of it. What it carries is pickled within, so that what cannot
be read there is an error of the task and not the end of the worker.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import importlib.util
import os
import pickle
import traceback
import uuid
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from callbax import _surroundings, _trust
from callbax._errors import attribute, describe_function
from callbax._exceptions import add_note
from callbax._external.host import JaxArrays
from callbax._external.lanes import LaneFunction
from callbax._host_function import Hashable


@dataclasses.dataclass(frozen=True)
class Failure:
    """What a lane raised, or why its function could not be had at all (`position` is None)."""

    position: int | None
    error: BaseException


Outcome = tuple[list[Any], Failure | None]  # what lanes returned, up to one that failed


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some lanes: for each array, one row a lane, or one row (`shared`) for them all."""

    count: int
    arrays: list[np.ndarray]
    shared: list[bool]
    copies: bool  # whether each lane gets its own copy of what lanes share
    outs: list[jax.ShapeDtypeStruct]  # what the function writes into, if it does

    def run(
        self, function: Callable[..., Any], stopped: Callable[[], bool] = lambda: False
    ) -> Outcome:
        values: list[Any] = []
        for position in range(self.count):
            if stopped():
                break
            try:
                outs = [np.empty(struct.shape, struct.dtype) for struct in self.outs]
                values.append(function(self._arguments(position), outs))
            except BaseException as error:  # noqa: BLE001 - it travels as a value
                return values, Failure(position, error)
        return values, None

    def _arguments(self, position: int) -> list[np.ndarray]:
        return [
            array[position, ...]
            if not shared
            else array[0, ...].copy()
            if self.copies
            else array[0, ...]
            for array, shared in zip(self.arrays, self.shared, strict=True)
        ]

    def __dask_tokenize__(self) -> str:
        # Dask runs equal tasks once; lanes with effects are to run each.
        return uuid.uuid4().hex


# The executors for which this thread runs lanes: their other threads may all wait for it.
working_for: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar(
    "callbax_working_for", default=()
)


class Portable:
    """Runs chunks of lanes of one function, for one executor.

    `by_value` says that the executor's workers may be told of a function that they cannot import.
    """

    def __init__(self, function: LaneFunction, executor: Any, by_value: bool):
        self.function = function
        self.executor = executor
        self.by_value = by_value
        self.is_stopped = False  # set when nobody waits any more; holds in this process only
        # What Dask calls the task, in its messages and on its dashboard.
        self.__name__ = str(attribute(function.function.value, "__name__") or "lanes")
        self._caller = _surroundings.Caller()

    def __call__(self, chunk: Chunk) -> Outcome:
        return self._caller.run(self._run, chunk)

    def _run(self, chunk: Chunk) -> Outcome:
        working_for.set((*working_for.get(), self.executor))
        return chunk.run(self.function, lambda: self.is_stopped)

    def __reduce__(self) -> Any:
        return Shipped, (self.pickled,)

    @functools.cached_property
    def pickled(self) -> bytes:
        """What another process needs.

        Raises:
          pickle.PicklingError: the function or a static argument cannot be pickled.
        """
        function = self.function
        count = function.structure.tree.num_leaves - len(function.structure.static)
        template = function.structure.unflatten([Slot(i) for i in range(count)])
        out = None
        if function.out:
            slots = [Slot(i) for i in range(function.result_tree.num_leaves)]
            out = jax.tree.unflatten(function.result_tree, slots)
        host_function = function.function.value
        as_jax = isinstance(host_function, JaxArrays)
        if as_jax:
            host_function = host_function.function.value
        try:
            portable = self._portable(host_function)
        except Exception as error:
            raise pickle.PicklingError(
                f"{describe_function(host_function)} cannot be pickled, so it cannot be sent to "
                f"another process: {error}. {self._advice()}"
            ) from error
        try:
            return pickle.dumps((portable, as_jax, template, out), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise pickle.PicklingError(
                f"a static argument of {describe_function(host_function)} cannot be pickled, so it "
                f"cannot be sent to another process: {error}"
            ) from error

    def _portable(self, function: Any) -> ByPath | ByPickle:
        path = _trust.import_path(function)
        if path is not None and not (self.by_value and path.startswith("__main__:")):
            return ByPath(path)
        if self.by_value and importlib.util.find_spec("cloudpickle") is not None:
            return ByPickle(importlib.import_module("cloudpickle").dumps(function))
        return ByPickle(pickle.dumps(function, pickle.HIGHEST_PROTOCOL))

    def _advice(self) -> str:
        return (
            "Define it with `def` at the top level of a module, so that a worker can import it (a "
            "lambda or a function inside a function cannot be); or use an executor of loky or Dask, "
            "which send functions by value; or one with threads."
        )

    def __dask_tokenize__(self) -> str:
        return uuid.uuid4().hex


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands in a tree of arguments for an array."""

    index: int


@dataclasses.dataclass(frozen=True)
class ByPath:
    """A function by the path that it is imported from."""

    path: str

    def find(self) -> Any:
        return _trust.imported(self.path)


@dataclasses.dataclass(frozen=True)
class ByPickle:
    """A function by its pickle."""

    data: bytes

    def find(self) -> Any:
        return pickle.loads(self.data)


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A `Portable` in another process."""

    data: bytes

    def __call__(self, chunk: Chunk) -> Outcome:
        try:
            function = _received(self.data)
        except Exception as error:  # noqa: BLE001 - it travels as a value
            return [], Failure(None, _sendable(error))
        values, failure = chunk.run(function)
        if failure is not None:
            failure = Failure(failure.position, _sendable(failure.error))
        return values, failure


@functools.lru_cache(maxsize=16)
def _received(data: bytes) -> Callable[..., Any]:
    """The function for a lane; the same for equal data, so that what it remembers is kept."""
    portable, as_jax, template, out = pickle.loads(data)
    function = portable.find()
    if as_jax:
        function = JaxArrays(Hashable(function))

    def call(leaves: list[np.ndarray], outs: list[np.ndarray]) -> Any:
        args, kwargs = _fill(template, leaves)
        if out is None:
            return function(*args, **kwargs)
        function(*args, **kwargs, out=_fill(out, outs))
        return outs

    return call


def _fill(tree: Any, leaves: list[np.ndarray]) -> Any:
    return jax.tree.map(lambda leaf: leaves[leaf.index] if type(leaf) is Slot else leaf, tree)


def _sendable(error: BaseException) -> BaseException:
    """The error, or one that says the same, such that it can be pickled; with its traceback."""
    text = "".join(traceback.format_exception(error)).rstrip()
    try:
        error.__cause__ = error.__context__ = None
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a user's exception does when it is pickled
        error = RuntimeError(f"{type(error).__qualname__}: {error}")
    add_note(error, f"callbax: in the worker process {os.getpid()}:\n{text}")
    return error
