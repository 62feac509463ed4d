"""Hints: what is often wrong where a callback's exception speaks of something else."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax

from callbax._runtime.errors import attribute, full_name
from callbax._runtime.exceptions import add_note, arguments_of, is_a, notes_of, traceback_of
from callbax._runtime.wrapper import Wrapper

_OF_TRACERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)
_RESULT_FIRST = "its second argument is result_shape_dtypes; the callback gets what follows it"
_GETS = {
    "pure_callback": _RESULT_FIRST,
    "io_callback": _RESULT_FIRST,
    "watch": "the callback gets a callbax.debug.Batch first, and then the values",
}


def add_hint(exception: BaseException, call: Any, flavour: str) -> None:
    """Notes at a callback's exception what its user may have meant.

    Args:
      exception: of the callback, whose traceback has no frames of callbax.
      call: the HostCall, or what else stands for the callback.
      flavour: its public function.
    """
    function = attribute(call, "function")
    if is_a(function, Wrapper) and function.is_quiet:
        return  # it is not about a callback, but meant as it is
    while is_a(function, Wrapper) and function.host_function is not function:
        function = function.host_function
    if is_a(exception, _OF_TRACERS):
        hint = _of_closures(function)
    elif _is_of_arity(exception):
        gets = _GETS.get(flavour.rpartition(".")[2])
        hint = f"callbax: of {full_name(flavour)}: {gets}" if gets else ""
    else:
        return
    if hint and hint not in notes_of(exception):
        add_note(exception, hint)


def _of_closures(function: Any) -> str:
    names = [name for name, value in _held_by(function) if _holds_tracer(value)]
    if not names:
        return ""
    return (
        f"callbax: the callback has {', '.join(names)} from the function around it, which JAX is "
        "tracing: there is no value in it yet. Give it to the callback as an argument"
    )


def _held_by(function: Any) -> Iterator[tuple[str, Any]]:
    """What a function brings along, with its names."""
    while is_a(function, functools.partial):
        yield from ((f"argument {i}", value) for i, value in enumerate(function.args))
        yield from function.keywords.items()
        function = function.func
    code = attribute(function, "__code__")
    cells = attribute(function, "__closure__")
    for name, cell in zip(attribute(code, "co_freevars") or (), cells or (), strict=False):
        yield name, attribute(cell, "cell_contents")


def _holds_tracer(value: Any) -> bool:
    """Whether it is a tracer, or a container of Python's own with one: nothing else is touched."""
    if type(value) is dict:
        value = list(value.values())
    if type(value) in (list, tuple):
        return any(map(_holds_tracer, value))
    return is_a(value, jax.core.Tracer)


def _is_of_arity(exception: BaseException) -> bool:
    """Whether the function was not even entered, since it does not take as many arguments."""
    arguments = arguments_of(exception)
    if not is_a(exception, TypeError) or traceback_of(exception) is not None or not arguments:
        return False
    text = arguments[0] if type(arguments[0]) is str else ""
    return "argument" in text and any(word in text for word in ("given", "missing", "got"))
