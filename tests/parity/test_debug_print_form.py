"""debug.print and debug.callback: the forms of a call, and what they refuse."""

import jax
import jax.numpy as jnp
import pytest
from helpers import EAGER_AND_JIT, both, both_raise

import callbax

EACH_FORM = pytest.mark.parametrize("ordered", [False, True])


def prints(transform, fmt, *args, **kwargs):
    """The lines that both libraries print."""

    @both
    def outcome(library, record):
        transform(lambda args, kwargs: library.debug.print(fmt, *args, **kwargs))(args, kwargs)

    return outcome.printed


@pytest.mark.parametrize(
    ("fmt", "kwargs", "error", "phrase"),
    [
        ("{x}", {}, KeyError, "'x'"),
        ("{x} {y}", {"x": 1}, KeyError, "'y'"),
        ("{}", {}, IndexError, "index out of range"),
    ],
)
def test_a_missing_field_is_an_error_at_trace_time(fmt, kwargs, error, phrase):
    """The format is checked at **trace time**: KeyError/IndexError for a missing field."""

    def program(library, record):
        jax.make_jaxpr(lambda x: library.debug.print(fmt, **kwargs))(1.0)

    both_raise(program, error, phrase)


def test_unused_positional_arguments_are_an_error():
    """ValueError "Unused positional arguments to `jax.debug.print`: …"."""

    def program(library, record):
        jax.make_jaxpr(lambda x: library.debug.print("hello", x, "and"))(1.0)

    outcome = both_raise(
        program, ValueError, "Unused positional arguments to `{library}.debug.print`: ["
    )
    assert outcome.printed == []


def test_unused_keyword_arguments_are_an_error():
    """ "Unused keyword arguments…: ['y']. You may be passing an f-string…"."""

    def program(library, record):
        library.debug.print("{x}", x=1, y=2)

    both_raise(
        program,
        ValueError,
        "Unused keyword arguments to `{library}.debug.print`: ['y']. You may be passing an",
    )


@EAGER_AND_JIT
@EACH_FORM
def test_two_call_form(transform, ordered):
    """Two-call form `print(ordered=True)(fmt, …)`."""

    @both
    def outcome(library, record):
        def f(x):
            library.debug.print(ordered=ordered)("x = {x}, {}", x + 1, x=x)
            library.debug.callback(ordered=ordered)(record.seen, x)

        transform(f)(1)

    assert outcome.printed == ["x = 1, 2"]
    assert outcome.calls == [1]


@EAGER_AND_JIT
def test_option_names_are_format_arguments_in_the_second_call(transform):
    """In the second call option names are format arguments."""

    @both
    def outcome(library, record):
        def f(x):
            library.debug.print()("{ordered} {partitioned}", ordered=x, partitioned=x + 1)
            library.debug.callback()(record.seen, ordered=x)

        transform(f)(1)

    assert outcome.printed == ["1 2"]
    assert outcome.calls == [{"ordered": 1}]


def test_extra_arguments_in_the_first_call_are_an_error():
    """TypeError "debug_print received unexpected arguments in the two-call form" (and callback)."""
    both_raise(
        lambda library, record: library.debug.print(x=1),
        TypeError,
        "debug_print received unexpected arguments in the two-call form",
    )
    both_raise(
        lambda library, record: library.debug.callback(x=1),
        TypeError,
        "debug_callback received unexpected arguments in the two-call form",
    )


def test_a_callback_that_is_not_callable_is_an_error():
    """A non-callable: TypeError with "callable"."""
    both_raise(
        lambda library, record: library.debug.callback("not a function", 1), TypeError, "callable"
    )
    both_raise(
        lambda library, record: library.debug.callback()("not a function"), TypeError, "callable"
    )


@pytest.mark.parametrize("name", ["print", "log"])
def test_a_value_in_the_place_of_the_format_string(name):
    """`print(x)`: JAX says "expected str", callbax what to write."""
    message = (
        rf'callbax.debug.{name} takes a format string before.*"x = {{}}", x\), but got .*Array'
    )
    with pytest.raises(TypeError, match=message):
        getattr(callbax.debug, name)(jnp.ones(2))


def test_a_missing_field_is_described():
    with pytest.raises(IndexError) as info:
        callbax.debug.print("{} {}", 1, skip_format_check=False)
    assert "the field {1}, but there are 1 positional arguments" in "".join(info.value.__notes__)
    with pytest.raises(KeyError) as info:
        callbax.debug.print("{x}", y=1)
    assert "the field {x}" in "".join(info.value.__notes__) and "['y']" in "".join(
        info.value.__notes__
    )


@EAGER_AND_JIT
def test_skip_format_check_joins_by_spaces(transform):
    """`skip_format_check=True` without placeholders joins by spaces."""

    @both
    def outcome(library, record):
        transform(lambda x: library.debug.print("values", x, x + 1, skip_format_check=True))(1)

    assert outcome.printed == ["values 1 2"]


@EAGER_AND_JIT
def test_a_string_without_fields(transform):
    """A string alone is printed."""
    assert prints(transform, "hello") == ["hello"]
    assert prints(transform, "") == [""]
    assert prints(transform, "two\nlines") == ["two", "lines"]


MISTAKES = {
    "x is": (ValueError, "a field for each value"),
    "{x: {}": (ValueError, "written twice"),
    "} {}": (ValueError, "written twice"),
}


@pytest.mark.parametrize("fmt", MISTAKES)
@pytest.mark.parametrize("name", ["print", "log"])
def test_a_note_says_what_is_wrong_with_the_format(name, fmt):
    kind, text = MISTAKES[fmt]
    with pytest.raises(kind) as info:
        getattr(callbax.debug, name)(fmt, 1)
    (note,) = info.value.__notes__
    assert text in note
