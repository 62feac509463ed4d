"""Where a log's rows go: files, databases, dashboards, loggers, functions."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import callbax
from callbax.tools._log_files import CsvFile, JsonLinesFile
from callbax.tools._log_rows import Block, Row, scalars


class LogError(callbax.CallbackError):
    """The target of a `callbax.tools.Log` has failed, or the log is closed.

    >>> import callbax
    >>> from callbax import tools
    >>> log = tools.Log(print)
    >>> log.close()
    >>> with callbax.reraise():
    ...     log(0, loss=1.0)
    Traceback (most recent call last):
    callbax.tools.LogError: Log(print) is closed, but was asked to log another row...
    """


LogError.__module__ = "callbax.tools"  # where users find it


class Target(Protocol):
    """What the thread writes to. It is made, used and closed on the thread."""

    def write(self, blocks: list[Block]) -> None:
        """Writes the rows, and removes from the blocks those that are written, also if it fails."""

    def close(self) -> None: ...


class SqliteTable:
    """The table "log" of an SQLite database; each write is one transaction."""

    def __init__(self, path: str, mode: str):
        import sqlite3

        self._connection = sqlite3.connect(path)
        with self._connection:
            if mode == "w":
                self._connection.execute("DROP TABLE IF EXISTS log")
            self._connection.execute("CREATE TABLE IF NOT EXISTS log (step)")

    def write(self, blocks: list[Block]) -> None:
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            # Other logs may have added some.
            columns = [row[1] for row in connection.execute("PRAGMA table_info(log)")]
            known = {_folded(name): name for name in columns}
            for block in [block.scalars() for block in blocks]:
                texts = dict(block.texts)
                names = [*block.names, *texts]
                for name in names:
                    if (same := known.setdefault(_folded(name), name)) != name:
                        raise ValueError(
                            f"to SQLite the columns {same!r} and {name!r} are the same; rename one"
                        )
                    if name not in columns:
                        connection.execute(f"ALTER TABLE log ADD COLUMN {_quoted(name)}")
                        columns.append(name)
                listed = ", ".join(map(_quoted, names))
                places = ", ".join("?" * len(names))
                connection.executemany(
                    f"INSERT INTO log ({listed}) VALUES ({places})",
                    [(*map(_stored, row), *texts.values()) for row in block.rows],
                )
        blocks.clear()

    def close(self) -> None:
        self._connection.close()


def _folded(name: str) -> str:
    """Equal for names that are the same to SQLite."""
    return "".join(char.lower() if char.isascii() else char for char in name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _stored(value: Any) -> Any:
    """What SQLite has no number for is text."""
    too_large = isinstance(value, int) and value >= 2**63
    return str(value) if too_large or isinstance(value, complex) else value


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
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(line.strip() for line in str(value).splitlines())


_Mode = Literal["a", "w"]
_FILES: dict[str, Callable[[str, _Mode], Target]] = {
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


@dataclasses.dataclass
class _Opener:
    """Opens a file or database; replaces what is there once, and never in a forked child."""

    kind: Callable[[str, _Mode], Target]
    path: str
    mode: _Mode
    process: int = dataclasses.field(default_factory=os.getpid)

    def __call__(self) -> Target:
        target = self.kind(self.path, self.mode if os.getpid() == self.process else "a")
        self.mode = "a"
        return target


def opener(target: Any, mode: _Mode) -> Callable[[], Target]:
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
        return _Opener(_FILES[path.suffix.lower()], str(path), mode)
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
