"""Files that grow line by line, without losing or repeating one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO


class GrowingFile:
    """A text file that grows by whole pieces, or stays as it is.

    Nothing is buffered here: what has been appended is with the operating system, and what a forked
    process inherits is complete.
    """

    def __init__(self, path: str, mode: str):
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if mode == "w" else 0)
        self._file = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
        size = os.lseek(self._file, 0, os.SEEK_END)
        if size:
            os.lseek(self._file, -1, os.SEEK_END)
            if os.read(self._file, 1) != b"\n":  # left by a process that was killed
                self.append("\n")

    def first_line(self) -> str:
        with open(self._path, encoding="utf-8", newline="") as file:
            return file.readline()

    def append(self, text: str) -> None:
        """Adds the text. If it fails, for instance because the disk is full, nothing is added."""
        data = memoryview(text.encode())
        start = os.lseek(self._file, 0, os.SEEK_END)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except BaseException:
            os.ftruncate(self._file, start)
            raise

    @contextlib.contextmanager
    def replaced(self) -> Iterator[tuple[IO[str], IO[str]]]:
        """Files to read the old text from and write the new text to; it takes its place at the end."""
        directory, name = os.path.split(self._path)
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
        try:
            with (
                open(self._path, encoding="utf-8", newline="") as old,
                open(handle, "w", encoding="utf-8", newline="") as new,
            ):
                yield old, new
            os.chmod(temporary, os.stat(self._path).st_mode & 0o777)
            os.replace(temporary, self._path)
        except BaseException:
            os.unlink(temporary)
            raise
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | getattr(os, "O_BINARY", 0))

    def close(self) -> None:
        os.close(self._file)
