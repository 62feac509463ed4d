"""What debug.print and debug.log call: a format string with NumPy's print options."""

from __future__ import annotations

import _string  # type: ignore[import-not-found]  # how str.format reads a field's name
import dataclasses
import functools
import logging
import string
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import jax
import numpy as np

from callbax._host import identity, program_names
from callbax._runtime.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Printer(Wrapper):
    """Formats and prints. Equal for equal format strings and print options."""

    fmt: str
    print_options: tuple[tuple[str, Any], ...]
    key: ClassVar[str] = "print"  # in names
    takes_text: ClassVar[bool] = True

    @functools.cached_property
    def _options(self) -> dict[str, Any]:
        return dict(self.print_options)

    @functools.cached_property
    def has_fields(self) -> bool:
        return any(field is not None for _, field, *_ in string.Formatter().parse(self.fmt))

    @functools.cached_property
    def held(self) -> list[Any]:
        return [value for value in self._options.values() if type(value) not in _WRITABLE]

    @property
    def program_name(self) -> dict[str, Any] | None:
        """Equal in every process for equal content, if that can be written down."""
        if self.held:
            return None  # functions
        return {self.key: self.fmt, "options": self._options}

    @classmethod
    def from_name(cls, name: dict[str, Any]) -> Self:
        """The Printer of that `program_name`, which may come from a file.

        Raises:
          LookupError: it is not one, or its format string asks for more than values.
        """
        fmt, options = program_names.string(name, cls.key), name.get("options")
        try:
            if not isinstance(options, dict) or not all(
                type(value) in _WRITABLE for value in options.values()
            ):
                raise TypeError(f"the print options {options!r}")
            with np.printoptions(**options):
                _check_fields(fmt)
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise LookupError(f"{cls.key}({fmt!r}), which is refused: {error}") from error
        return cls(fmt, tuple(options.items()), *cls._source(name))

    @classmethod
    def _source(cls, name: dict[str, Any]) -> Sequence[Any]:
        return ()

    @property
    def description(self) -> str:
        return f"{self.key}({self.fmt!r})"

    @functools.cached_property
    def _format_numbers(self) -> Callable[..., str] | None:
        """Formats Python's numbers, if it does so as it formats arrays of one number."""
        for _, field, spec, conversion in string.Formatter().parse(self.fmt):
            if conversion or set(field or "") & set(".[") or "{" in (spec or ""):
                return None
        return self.fmt.format if self.has_fields else None

    def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        format_numbers = self._format_numbers
        if format_numbers is None or not (are_numbers(args) and are_numbers(kwargs.values())):
            self._emit(self.text(args, kwargs))
        elif kwargs:
            named = {name: array.item() for name, array in kwargs.items()}
            self._emit(format_numbers(*[array.item() for array in args], **named))
        else:
            self._emit(format_numbers(*[array.item() for array in args]))

    def text(self, args: Any, kwargs: Any) -> str:
        """What is printed for any arguments."""
        args, kwargs = jax.tree.map(as_shown, (args, kwargs))
        if not self.has_fields:
            return " ".join((self.fmt, *map(str, args))) if args else self.fmt.format()
        if np.get_printoptions() == self._options:  # setting them costs more than printing
            return self.fmt.format(*args, **kwargs)
        with np.printoptions(**self._options):
            return self.fmt.format(*args, **kwargs)

    def _emit(self, text: str) -> None:
        sys.stdout.write(text + "\n")


@dataclasses.dataclass(frozen=True)
class LogPrinter(Printer):
    """Formats, and logs at level INFO, from the line of the program that asks for it."""

    file: str
    line: int
    key: ClassVar[str] = "log"

    @property
    def program_name(self) -> dict[str, Any] | None:
        name = super().program_name
        return None if name is None else {**name, "file": self.file, "line": self.line}

    @classmethod
    def _source(cls, name: dict[str, Any]) -> Sequence[Any]:
        return program_names.string(name, "file"), program_names.number(name, "line")

    def _emit(self, text: str) -> None:
        record = _logger.makeRecord(
            _logger.name, logging.INFO, self.file, self.line, text, (), None
        )
        _logger.handle(record)


_logger = logging.getLogger("callbax.debug")

_WRITABLE = (str, int, float, bool, type(None))
# What a format string from a file may ask of a value. Others (`{x.__class__...}`) lead everywhere.
_ATTRIBUTES = {"T", "dtype", "imag", "itemsize", "name", "nbytes", "ndim", "real", "shape", "size"}


def _check_fields(fmt: str) -> None:
    """Refuses attributes that lead away from a value, also in nested format specifications."""
    for _, field, spec, _ in string.Formatter().parse(fmt):
        if field is None:
            continue
        for is_attribute, key in _string.formatter_field_name_split(field)[1]:
            if is_attribute and key not in _ATTRIBUTES:
                raise ValueError(
                    f"it asks for the attribute {key!r}, but in a print of a loaded program only "
                    f"{', '.join(sorted(_ATTRIBUTES))} can be shown"
                )
        _check_fields(spec or "")


# Of numbers that NumPy formats as Python's, whatever the print options are.
_NUMBERS = frozenset("?bhilqBHILQefdFD")


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether each is an array of one number, of a type that Python has."""
    for value in values:
        if type(value) is not np.ndarray or value.ndim or value.dtype.char not in _NUMBERS:
            return False
    return True


class _Shown(np.ndarray):
    """Prints inside containers, and under `!r`, as a jax Array does."""

    def __format__(self, spec: str) -> str:
        try:
            return np.asarray(self).__format__(spec)
        except TypeError as error:
            error.add_note(
                f"An array of shape {self.shape} is printed as a whole, and {{:{spec}}} does not apply; "
                "print it as {}, in the form that numpy.set_printoptions sets, or one of its elements."
            )
            raise

    def __repr__(self) -> str:
        text = np.array2string(np.asarray(self), prefix="Array(", suffix=",", separator=", ")
        shape = f" shape={self.shape}," if self.size == 0 and self.ndim > 1 else ""
        return f"Array({text},{shape} dtype={self.dtype.name})"


def as_shown(leaf: Any) -> Any:
    return leaf.view(_Shown) if isinstance(leaf, np.ndarray) else leaf


class FormatChecker(string.Formatter):
    """Finds fields without arguments and arguments without fields, and formats nothing."""

    def parse(self, format_string: Any) -> Any:
        try:
            yield from super().parse(format_string)
        except ValueError as error:
            error.add_note(
                f"callbax: {format_string!r} is not a format string as for str.format; a brace that is "
                "to be printed is written twice, {{ or }}"
            )
            raise

    def format_field(self, value: Any, format_spec: str) -> str:
        return ""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Any) -> Any:
        try:
            return super().get_value(key, args, kwargs)
        except (IndexError, KeyError) as error:
            error.add_note(
                f"callbax: the format string has the field {{{key}}}, but there are {len(args)} "
                f"positional arguments (the first is {{0}}), and the names {sorted(kwargs)}"
            )
            raise

    def check_unused_args(self, used_args: Any, args: Sequence[Any], kwargs: Any) -> None:
        unused_args = [arg for i, arg in enumerate(args) if i not in used_args]
        unused_kwargs = [name for name in kwargs if name not in used_args]
        if unused_args:
            error = ValueError(
                f"Unused positional arguments to `callbax.debug.print`: {unused_args}"
            )
            error.add_note(
                "callbax: a format string has a field for each value, as in "
                'callbax.debug.print("x = {}", x)'
            )
            raise error
        if unused_kwargs:
            raise ValueError(
                f"Unused keyword arguments to `callbax.debug.print`: {unused_kwargs}. "
                'You may be passing an f-string (i.e, `f"{x}"`) into `callbax.debug.print` and '
                "instead should pass in a regular string."
            )


for _kind in (Printer, LogPrinter):
    identity.add_kind(_kind.key, _kind.from_name)
