"""Where a log's rows go: files, databases, dashboards, loggers, functions."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from callbax.tools._log_files import GrowingFile
from callbax.tools._log_rows import Block, Row, scalars
from callbax.tools._log_writer import Target


class CsvFile:
    """A CSV file whose columns grow with the metrics."""

    def __init__(self, path: str, mode: str):
        self._file = GrowingFile(path, mode)
        header = next(csv.reader(io.StringIO(self._file.first_line())), [])
        if header and header[0] != "step":
            raise ValueError(
                f"{path} has another first column than 'step'; say mode='w' to replace it"
            )
        self._columns = header

    def write(self, blocks: list[Block]) -> None:
        flat = [block.scalars() for block in blocks]
        named = itertools.chain.from_iterable((*b.names, *dict(b.texts)) for b in flat)
        known = set(self._columns)
        if added := [name for name in dict.fromkeys(named) if name not in known]:
            self._add(added)
        self._file.append("".join([_as_text(block, self._line(block)) for block in flat]))
        blocks.clear()

    def _line(self, block: Block) -> str:
        """The format of a line."""
        fields = dict(zip(block.names, block.formats, strict=True))
        fields |= {name: text.replace("%", "%%") for name, text in block.texts}
        return _csv_line([fields.get(name, "") for name in self._columns])

    def _add(self, names: list[str]) -> None:
        """Gives the file more columns, which are empty so far."""
        columns = [*self._columns, *names]
        if not self._columns:
            self._file.append(_csv_line(columns))
        else:
            with self._file.replaced() as (old, new):
                read, write = csv.reader(old), csv.writer(new, lineterminator="\n")
                write.writerow([*next(read), *names])
                write.writerows([*row, *[""] * (len(columns) - len(row))] for row in read)
        self._columns = columns

    def close(self) -> None:
        self._file.close()


def _csv_line(values: list[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _as_text(block: Block, line: str) -> str:
    """The rows in that format; much faster than row by row."""
    return (line * len(block.rows)) % tuple(itertools.chain.from_iterable(block.rows))


class JsonLinesFile:
    """A file with one JSON object a line; arrays are lists, complex numbers pairs."""

    def __init__(self, path: str, mode: str):
        self._file = GrowingFile(path, mode)

    def write(self, blocks: list[Block]) -> None:
        self._file.append("".join(map(_json_lines, blocks)))
        blocks.clear()

    def close(self) -> None:
        self._file.close()


def _json_lines(block: Block) -> str:
    if not _are_finite_numbers(block):
        return "".join([json.dumps(row, default=_plain) + "\n" for row in block.dicts()])
    fields = [(name, f) for name, f in zip(block.names, block.formats, strict=True)]
    fields += [(name, json.dumps(text).replace("%", "%%")) for name, text in block.texts]
    named = ", ".join(f"{json.dumps(name).replace('%', '%%')}: {field}" for name, field in fields)
    return _as_text(block, f"{{{named}}}\n")


def _are_finite_numbers(block: Block) -> bool:
    """Whether the rows hold nothing that JSON writes in a way of its own."""
    if "%s" in block.formats or any([isinstance(value, np.ndarray) for value in block.rows[0]]):
        return False
    return all([math.isfinite(sum(column)) for column in zip(*block.rows, strict=True)])


def _plain(value: Any) -> Any:
    return [value.real, value.imag] if isinstance(value, complex) else value.tolist()


class SqliteTable:
    """The table "log" of an SQLite database; each write is one transaction."""

    def __init__(self, path: str, mode: str):
        import sqlite3

        self._connection = sqlite3.connect(path)
        with self._connection:
            if mode == "w":
                self._connection.execute("DROP TABLE IF EXISTS log")
            self._connection.execute("CREATE TABLE IF NOT EXISTS log (step)")
        self._columns = {row[1] for row in self._connection.execute("PRAGMA table_info(log)")}

    def write(self, blocks: list[Block]) -> None:
        columns = set(self._columns)
        with self._connection as connection:
            connection.execute("BEGIN")
            for block in [block.scalars() for block in blocks]:
                texts = dict(block.texts)
                names = [*block.names, *texts]
                for name in names:
                    if name not in columns:
                        connection.execute(f"ALTER TABLE log ADD COLUMN {_quoted(name)}")
                        columns.add(name)
                listed = ", ".join(map(_quoted, names))
                places = ", ".join("?" * len(names))
                connection.executemany(
                    f"INSERT INTO log ({listed}) VALUES ({places})",
                    [(*map(_stored, row), *texts.values()) for row in block.rows],
                )
        self._columns = columns
        blocks.clear()

    def close(self) -> None:
        self._connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _stored(value: Any) -> Any:
    return str(value) if isinstance(value, complex) else value


class EachRow:
    """What takes one row at a time."""

    def __init__(self, write_row: Callable[[Row], object], finish: Callable[[], object] | None):
        self._write_row = write_row
        self._finish = finish

    def write(self, blocks: list[Block]) -> None:
        while blocks:
            written = 0
            try:
                for row in blocks[0].dicts():
                    self._write_row(row)
                    written += 1
            finally:
                del blocks[0].rows[:written]
            del blocks[0]
        if self._finish is not None:
            self._finish()

    def close(self) -> None:
        """What the user has made, the user closes."""


def _add_scalars(target: Any, row: Row) -> None:
    step = row.pop("step")
    for name, value in scalars(row).items():
        (target.add_text if isinstance(value, str) else target.add_scalar)(name, value, step)


def _log_row(target: Any, row: Row) -> None:
    step = row.pop("step")
    target.log(scalars(row), step=step)


def _log_line(target: Any, row: Row) -> None:
    target.info(" ".join(f"{name}={_shown(value)}" for name, value in row.items()))


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("\n", "")


_FILES: dict[str, Callable[[str, str], Target]] = {
    ".csv": CsvFile,
    ".jsonl": JsonLinesFile,
    ".sqlite": SqliteTable,
    ".sqlite3": SqliteTable,
    ".db": SqliteTable,
}
# Which objects are targets, how they get a row, and what they are told after some.
_Writes = Callable[[Any, Row], None]
_OBJECTS: tuple[tuple[Callable[[Any], bool], _Writes, str], ...] = (
    (lambda x: isinstance(x, logging.Logger | logging.LoggerAdapter), _log_line, ""),
    (lambda x: hasattr(x, "add_scalar"), _add_scalars, "flush"),
    (lambda x: callable(getattr(x, "log", None)), _log_row, ""),
    (callable, lambda function, row: function(row), ""),
)


def opener(target: Any, mode: str) -> Callable[[], Target]:
    """What makes the Target, on the thread that writes."""
    if isinstance(target, str | os.PathLike):
        path = Path(os.path.abspath(os.fspath(target)))
        if path.suffix.lower() not in _FILES:
            raise ValueError(
                f"a log's path must end in one of {', '.join(_FILES)}, but is {os.fspath(target)!r}"
            )
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"the directory of the log {os.fspath(target)!r} does not exist"
            )
        return functools.partial(_FILES[path.suffix.lower()], str(path), mode)
    for is_one, write, then in _OBJECTS:
        if is_one(target):
            finish = getattr(target, then, None) if then else None
            return functools.partial(EachRow, functools.partial(write, target), finish)
    raise TypeError(
        "a log's target must be a path, a TensorBoard writer, a W&B run, a logging.Logger or a function "
        f"of a dict, but is of type {type(target).__name__}"
    )


def describe_target(target: Any) -> str:
    """What messages call it."""
    if isinstance(target, str | os.PathLike):
        return repr(os.fspath(target))
    name = getattr(target, "__qualname__", None) or getattr(target, "name", None)
    return name if isinstance(name, str) else type(target).__name__
