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
import uuid
from collections.abc import Callable
from typing import Any

import jax

from callbax._external.lanes import new_outs
from callbax._host import trust
from callbax._host.adapters import WithArrays
from callbax._host.call import HostCall
from callbax._host.function import Hashable
from callbax._host.operands import Operand
from callbax._host.structure import Structure
from callbax._runtime import surroundings
from callbax._runtime.errors import attribute, describe_function
from callbax._runtime.exceptions import (
    add_note,
    forget_causes,
    format_exception,
    set_traceback,
    text_of,
    type_name,
)
from callbax._runtime.failures import hide_our_frames


@dataclasses.dataclass(frozen=True)
class Failure:
    """What a lane raised, or why there was no function to run (`position` is None)."""

    position: int | None
    error: BaseException


Outcome = tuple[list[Any], Failure | None]  # what lanes returned, up to one that failed


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some lanes: how many, their arguments, and the results of one."""

    count: int
    operands: list[Operand]
    results: tuple[jax.ShapeDtypeStruct, ...]

    def run(self, host_call: HostCall, stopped: Callable[[], bool] = lambda: False) -> Outcome:
        values: list[Any] = []
        for position in range(self.count):
            if stopped():
                break
            try:
                arguments = [operand.of_lane(position) for operand in self.operands]
                outs = new_outs(host_call, self.results)
                value = host_call.call([*arguments, *outs])
                values.append(outs or value)
            except BaseException as error:  # noqa: BLE001 - it travels as a value
                hide_our_frames(error)
                return values, Failure(position, error)
        return values, None

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

    def __init__(self, host_call: HostCall, executor: Any, by_value: bool):
        self.host_call = host_call
        self.executor = executor
        self.by_value = by_value
        self.is_stopped = False  # set when nobody waits any more; holds in this process only
        # What Dask calls the task, in its messages and on its dashboard.
        self.__name__ = str(attribute(host_call.function, "__name__") or "lanes")
        self._caller = surroundings.Caller()

    def __call__(self, chunk: Chunk) -> Outcome:
        return self._caller.run(self._run, chunk)

    def _run(self, chunk: Chunk) -> Outcome:
        working_for.set((*working_for.get(), self.executor))
        return chunk.run(self.host_call, lambda: self.is_stopped)

    def __reduce__(self) -> Any:
        return Shipped, (self.pickled, self._caller.configuration)

    @functools.cached_property
    def pickled(self) -> bytes:
        """What another process needs.

        Raises:
          pickle.PicklingError: the function or a static argument cannot be pickled.
        """
        call = self.host_call
        arguments = call.structure.unflatten([Slot()] * call.structure.arrays)
        out = None if call.out is None else call.out.unflatten([Slot()] * call.out.num_leaves)
        host_function: Any = call.function
        adapter = None
        if isinstance(host_function, WithArrays):
            host_function, adapter = host_function.function.value, host_function.around(None)
        try:
            portable = self._portable(host_function)
        except Exception as error:
            raise pickle.PicklingError(
                f"{describe_function(host_function)} cannot be pickled, so it cannot be sent to "
                f"another process: {error}. Define it with `def` at the top level of a module, so that "
                "a worker can import it (a lambda or a function inside a function cannot be); or use "
                "an executor of loky or Dask, which send functions by value; or one with threads."
            ) from error
        try:
            parts = (portable, adapter, arguments, out, call.views)
            return pickle.dumps(parts, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise pickle.PicklingError(
                f"a static argument of {describe_function(host_function)} cannot be pickled, so it "
                f"cannot be sent to another process: {error}"
            ) from error

    def _portable(self, function: Any) -> Callable[[], Any]:
        """What gives the function in another process."""
        path = trust.import_path(function)
        if path is not None and not (self.by_value and path.startswith("__main__:")):
            return functools.partial(trust.imported, path)
        if self.by_value and importlib.util.find_spec("cloudpickle") is not None:
            data = importlib.import_module("cloudpickle").dumps(function)
        else:
            data = pickle.dumps(function, pickle.HIGHEST_PROTOCOL)
        return functools.partial(pickle.loads, data)

    def __dask_tokenize__(self) -> str:
        return uuid.uuid4().hex


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands in a tree for an array."""


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A `Portable` in another process."""

    data: bytes
    configuration: str = ""  # of JAX, where the lanes were sent

    def __call__(self, chunk: Chunk) -> Outcome:
        try:
            host_call = _received(self.data)
        except Exception as error:  # noqa: BLE001 - it travels as a value
            return [], Failure(None, _sendable(error))
        with surroundings.configured(self.configuration):
            values, failure = chunk.run(host_call)
        if failure is not None:
            failure = Failure(failure.position, _sendable(failure.error))
        return values, failure


@functools.lru_cache(maxsize=16)
def _received(data: bytes) -> HostCall:
    """The call for a lane; the same for equal data, so that what its function remembers is kept."""
    portable, adapter, arguments, out, views = pickle.loads(data)
    function = portable()
    if adapter is not None:
        function = adapter.around(function)
    leaves, tree = jax.tree.flatten(arguments)
    static = tuple((i, Hashable(leaf)) for i, leaf in enumerate(leaves) if type(leaf) is not Slot)
    out_tree = None if out is None else jax.tree.structure(out)
    return HostCall(Hashable(function), Structure(tree, static), views=views, out=out_tree)


def _sendable(error: BaseException) -> BaseException:
    """The error, or one that says the same, such that it can be pickled; with its traceback."""
    note = f"callbax: in the worker process {os.getpid()}:\n{format_exception(error)}"
    forget_causes(error)
    set_traceback(error, None)  # what pickles it may keep that, and it is in the note
    add_note(error, note)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a user's exception does when it is pickled
        error = RuntimeError(f"{type_name(error)}: {text_of(error)}")
        add_note(error, note)
    return error
