"""Users' exceptions as data: read, annotated and formatted although their own code may fail.

The class of an exception may override everything, `__getattribute__` and `__str__` included, with
code that raises. What BaseException itself keeps is therefore read by its own descriptors. Where the
object has to be asked, as for its text, there is an answer without it.
"""

from __future__ import annotations

import array
import gc
import io
import itertools
import mmap
import traceback
import types
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np

from callbax import _jax

traceback_of = BaseException.__dict__["__traceback__"].__get__
set_traceback = BaseException.with_traceback
cause_of = BaseException.__dict__["__cause__"].__get__
context_of = BaseException.__dict__["__context__"].__get__
suppresses_context = BaseException.__dict__["__suppress_context__"].__get__
arguments_of = BaseException.__dict__["args"].__get__
exceptions_of = BaseExceptionGroup.__dict__["exceptions"].__get__  # of a group
_attributes_of = BaseException.__dict__["__dict__"].__get__
_name_of = type.__dict__["__qualname__"].__get__
_module_of = type.__dict__["__module__"].__get__


def is_a(item: Any, kinds: Any) -> bool:
    """`isinstance`, by the type alone: it would also ask the item for its `__class__`."""
    return issubclass(type(item), kinds)


def type_name(item: Any) -> str:
    return str(_name_of(type(item)))


def notes_of(exception: BaseException) -> list[Any]:
    """The notes themselves, as a list that may be changed; a new one if there are none."""
    notes = _attributes_of(exception).get("__notes__")
    return notes if type(notes) is list else []


def set_notes(exception: BaseException, notes: list[Any]) -> None:
    """Like `__notes__ = notes`, even if the class refuses to set attributes."""
    _attributes_of(exception)["__notes__"] = notes


def add_note(exception: BaseException, note: str) -> None:
    """Like the method of that name."""
    set_notes(exception, [*notes_of(exception), note])


def forget_causes(exception: BaseException) -> None:
    for name in ("__cause__", "__context__"):
        BaseException.__dict__[name].__set__(exception, None)


def text_in(exception: BaseException) -> str:
    """The strings among its arguments: the text of what has no `__str__` of its own."""
    return "\n".join(str(a) for a in arguments_of(exception) if is_a(a, str))


def text_of(exception: BaseException) -> str:
    """Its `str`, or what is shown in its place. A KeyboardInterrupt is let through."""
    try:
        return str(exception)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001
        return text_in(exception)


def format_exception(exception: BaseException) -> str:
    """The traceback and the text, with causes and notes, as Python shows it; or as far as it can be.

    A KeyboardInterrupt is let through.
    """
    for formatted in (_as_python_shows_it, _without_its_own_text):
        try:
            return formatted(exception).rstrip()
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - the next way asks less of the exception
            continue
    return type_name(exception)


def _as_python_shows_it(exception: BaseException) -> str:
    return "".join(traceback.format_exception(exception))


def _without_its_own_text(exception: BaseException) -> str:
    module = _module_of(type(exception))
    name = type_name(exception)
    lines = [f"{module}.{name}" if type(module) is str and module != "builtins" else name]
    text = text_in(exception)
    lines[0] += f": {text}" if text else ""
    lines += [note for note in notes_of(exception) if is_a(note, str)]
    frames = traceback.format_tb(traceback_of(exception))
    head = ["Traceback (most recent call last):\n", *frames] if frames else []
    return "".join(head) + "\n".join(lines)


# -- memory ----------------------------------------------------------------------------------------
# Enough for the variables of a callback's frames, and a bound for huge object graphs; what lies beyond
# it is taken for that large.
_MOST_OBJECTS = 5000
_UNSEEN_BYTES = 1 << 26
# What these refer to lives on without an exception.
_SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType)
_ARRAY_BASE = np.ndarray.__dict__["base"].__get__
_ARRAY_BYTES = np.ndarray.__dict__["nbytes"].__get__
# Types whose objects know the size of the memory that they own, and run no code to tell it.
_SIZED = (list, dict, set, frozenset, tuple, int, float, array.array, io.BytesIO, io.StringIO)
_SMALL = 1 << 12


def memory_held(exception: BaseException) -> dict[int, int]:
    """The sizes in bytes, by id, of what an exception keeps alive; all that is small is one entry.

    Found are arrays, strings, numbers and buffers in the variables of its traceback's frames, in its
    arguments and attributes, in its causes and contexts, and in objects and containers there. The
    garbage collector says what refers to what, so no code of the objects runs.
    """
    sizes: dict[int, int] = {}
    small = 0
    seen: set[int] = set()
    level: list[Any] = [exception]
    while level:
        following: list[Any] = []
        for item in level:
            if id(item) in seen:
                continue
            if len(seen) >= _MOST_OBJECTS:
                return {**sizes, id(exception): small + _UNSEEN_BYTES}
            seen.add(id(item))
            item, size = _with_size(item)
            if size >= _SMALL:
                sizes[id(item)] = size
            else:
                small += size
            if not is_a(item, _SHARED):
                following.extend(itertools.islice(_held_by(item), _MOST_OBJECTS + 1))
        level = following
    return {**sizes, id(exception): small}


def _held_by(item: Any) -> Iterator[Any]:
    if not is_a(item, BaseException):
        yield from gc.get_referents(item)
        return
    yield from gc.get_referents(arguments_of(item), _attributes_of(item))
    if is_a(item, BaseExceptionGroup):
        yield from exceptions_of(item)
    yield from (cause_of(item), context_of(item))
    trace: TracebackType | None = traceback_of(item)
    while trace is not None:
        everywhere = trace.tb_frame.f_globals
        yield from (held for held in gc.get_referents(trace.tb_frame) if held is not everywhere)
        trace = trace.tb_next


def _with_size(item: Any) -> tuple[Any, int]:
    """What owns the memory of `item`, and its size."""
    size = 0
    while is_a(item, np.ndarray):
        size = max(size, _ARRAY_BYTES(item))
        base = _ARRAY_BASE(item)
        if base is None:
            break
        item = base
    for kind in (bytes, bytearray, str):
        if is_a(item, kind):
            size = max(size, kind.__sizeof__(item))
    if type(item) in _SIZED:
        size = type(item).__sizeof__(item)  # type: ignore[call-arg]
    if type(item) is mmap.mmap:
        size = len(item)
    if type(item) is _jax.DeviceArray:
        size = int(item.nbytes)
    return item, size
