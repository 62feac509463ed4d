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
_SINGLE_NUMBERS = (
    "The truth value of an array with more than one element",
    "only 0-dimensional arrays can be converted",
    "only length-1 arrays can be converted",  # NumPy before 2.4
)
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
        hint = _of_arity(_text_of(exception), flavour)
    elif flavour in ("pure_callback", "external") and _is_of_single_numbers(exception):
        hint = (
            "callbax: the function got whole arrays. If it is for single numbers, callbax.external(..., "
            "signature='()->()') calls it for each; '(),()->()' if it takes two"
        )
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
    """Whether the function was not even entered, since it does not take these arguments."""
    if not is_a(exception, TypeError) or traceback_of(exception) is not None:
        return False
    text = _text_of(exception)
    return "argument" in text and any(word in text for word in ("given", "missing", "got"))


def _of_arity(text: str, flavour: str) -> str:
    if "keyword argument" in text:
        return (
            f"callbax: of {full_name(flavour)}: keyword arguments that are none of its options are "
            "the callback's. Is one misspelt, or an option of another function?"
        )
    gets = _GETS.get(flavour.rpartition(".")[2])
    return f"callbax: of {full_name(flavour)}: {gets}" if gets else ""


def _is_of_single_numbers(exception: BaseException) -> bool:
    """Whether the function itself took an array for a number, not what it called."""
    frames = traceback_of(exception)
    return (frames is None or frames.tb_next is None) and _text_of(exception).startswith(
        _SINGLE_NUMBERS
    )


def _text_of(exception: BaseException) -> str:
    arguments = arguments_of(exception)
    return arguments[0] if arguments and type(arguments[0]) is str else ""
