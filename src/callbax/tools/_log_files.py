"""The files of a log, which grow by whole pieces, without losing or repeating one: CSV, JSON lines."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

from callbax.tools._log_rows import Block

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems say then


# -- a file ------------------------------------------------------------------------------------------
class GrowingFile:
    """A text file that grows by whole pieces, or stays as it is; several logs may share it.

    Nothing is buffered here: what has been appended is with the operating system, and what a forked
    process inherits is complete. All that reads or writes is in a `locked` block.
    """

    def __init__(self, path: str, mode: str):
        self._path = path
        self._file = self._opened(os.O_TRUNC if mode == "w" else 0)

    def _opened(self, flags: int = 0) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | flags, 0o666)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Other logs wait. The file is the one that the path names now, a new one if there is none."""
        _lock(self._file, fcntl.LOCK_EX)
        try:
            while not self._is_there():
                new = self._opened()
                self._let_go()
                self._file = new
                _lock(new, fcntl.LOCK_EX)
            yield
        finally:
            _lock(self._file, fcntl.LOCK_UN)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _let_go(self) -> None:
        _lock(self._file, fcntl.LOCK_UN)  # a forked child may have the file open, too
        os.close(self._file)

    def begins_with(self, text: str) -> bool:
        data = text.encode()
        return os.pread(self._file, len(data), 0) == data

    @property
    def size(self) -> int:
        return os.fstat(self._file).st_size

    def reader(self) -> IO[str]:
        return open(self._path, encoding="utf-8", newline="")

    def append(self, text: str) -> None:
        """Adds the text. If it fails, for instance because the disk is full, nothing is added."""
        size = self.size
        if size and os.pread(self._file, 1, size - 1) != b"\n":  # left by a process that was killed
            text = f"\n{text}"
        data = memoryview(text.encode())
        os.lseek(self._file, 0, os.SEEK_END)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except BaseException:
            if self.size > size:
                os.ftruncate(self._file, size)
            raise

    @contextlib.contextmanager
    def replaced(self) -> Iterator[tuple[IO[str], IO[str]]]:
        """Files to read the old text from and write the new text to; it takes its place at the end."""
        path = os.path.realpath(self._path)  # of a link, the file that it names
        directory, name = os.path.split(path)
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
        try:
            with (
                self.reader() as old,
                open(os.dup(handle), "w", encoding="utf-8", newline="") as new,
            ):
                yield old, new
            os.fchmod(handle, os.fstat(self._file).st_mode & 0o777)
            _lock(handle, fcntl.LOCK_EX)
            os.replace(temporary, path)
        except BaseException:
            os.close(handle)
            os.unlink(temporary)
            raise
        self._let_go()
        self._file = handle

    def close(self) -> None:
        os.close(self._file)


def _lock(file: int, operation: int) -> None:
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise


# -- CSV ---------------------------------------------------------------------------------------------
class CsvFile:
    """A CSV file whose columns grow with the metrics."""

    def __init__(self, path: str, mode: str):
        self._path = path
        self._file = GrowingFile(path, mode)
        self._columns: list[str] = []

    def write(self, blocks: list[Block]) -> None:
        flat = [block.scalars() for block in blocks]
        named = itertools.chain.from_iterable((*b.names, *dict(b.texts)) for b in flat)
        with self._file.locked():
            self._read_columns()
            known = set(self._columns)
            if added := [name for name in dict.fromkeys(named) if name not in known]:
                self._add(added)
            self._file.append("".join(map(self._lines, flat)))
            blocks.clear()

    def _read_columns(self) -> None:
        """Those of the file, which another log may have made or changed."""
        if self._columns and self._file.begins_with(_csv_line(self._columns)):
            return
        columns: list[str] = []
        if self._file.size:
            try:
                with self._file.reader() as file:
                    columns = next(csv.reader(file), [])
            except (UnicodeDecodeError, csv.Error):
                columns = [""]
        if columns and columns[0] != "step":
            raise ValueError(
                f"{self._path} has another first column than 'step'; say mode='w' to replace it"
            )
        if len(set(columns)) < len(columns):
            raise ValueError(
                f"{self._path} has two columns of one name; say mode='w' to replace it"
            )
        self._columns = columns

    def _lines(self, block: Block) -> str:
        """Lines with the columns of the file."""
        known, texts = set(block.names), dict(block.texts)
        names, before, between = [], [], ""
        for name in self._columns:
            if name in known:
                names.append(name)
                before.append(between)
                between = ","
            else:
                between += _csv_field(texts.get(name, "")) + ","
        return block.lines(names, before, between.removesuffix(",") + "\n")

    def _add(self, names: list[str]) -> None:
        """Gives the file more columns, which are empty so far."""
        columns = [*self._columns, *names]
        header = _csv_line(columns)
        if not self._columns:
            self._file.append(header)
        else:
            with self._file.replaced() as (old, new):
                records = _records(old)
                next(records)
                new.write(header)
                new.writelines(f"{record}{',' * len(names)}\n" for record in records)
        self._columns = columns

    def close(self) -> None:
        self._file.close()


def _csv_line(values: list[str]) -> str:
    # With this end, fields with one of its characters are quoted.
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _csv_field(text: str) -> str:
    return _csv_line(["", text])[1:-1]


def _records(lines: Iterable[str]) -> Iterator[str]:
    """The records of a CSV file, without their ends; a quoted field may have several lines."""
    record = ""
    for line in lines:
        record += line
        if record.count('"') % 2 == 0:
            yield record.rstrip("\r\n")
            record = ""
    if record:
        yield record


# -- JSON lines --------------------------------------------------------------------------------------
class JsonLinesFile:
    """A file with one JSON object a line; arrays are lists, complex numbers pairs."""

    def __init__(self, path: str, mode: str):
        self._file = GrowingFile(path, mode)

    def write(self, blocks: list[Block]) -> None:
        text = "".join(map(_json_lines, blocks))
        with self._file.locked():
            self._file.append(text)
            blocks.clear()

    def close(self) -> None:
        self._file.close()


def _json_lines(block: Block) -> str:
    if not block.are_finite_numbers():
        return "".join([json.dumps(row, default=_plain) + "\n" for row in block.dicts()])
    before = [f"{', ' if k else '{'}{json.dumps(name)}: " for k, name in enumerate(block.names)]
    texts = "".join(f", {json.dumps(name)}: {json.dumps(text)}" for name, text in block.texts)
    return block.lines(block.names, before, f"{texts}}}\n")


def _plain(value: Any) -> Any:
    return [value.real, value.imag] if isinstance(value, complex) else value.tolist()
