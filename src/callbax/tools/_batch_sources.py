"""What batches are read from, and what each has to be like."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import mmap
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np


# -- what a batch is like ----------------------------------------------------------------------------
class Form:
    """Structure, shapes and dtypes of all batches."""

    def __init__(self, name: str):
        self._name = name
        self.structs: list[jax.ShapeDtypeStruct] = []
        self.tree: Any = None  # not known yet
        # The setting is that of the thread that makes the Batches.
        self._narrowed = {
            np.dtype(wide): np.dtype(jax.dtypes.canonicalize_dtype(wide))
            for wide in (np.int64, np.uint64, np.float64, np.complex128)
        }

    def set(self, like: Any, what: str) -> None:
        paths, self.tree = jax.tree_util.tree_flatten_with_path(like)
        self.structs = []
        for path, leaf in paths:
            if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
                raise TypeError(
                    f"{self._name}: {_place(what, path)} is {type(leaf).__name__}, but needs a shape "
                    "and a dtype"
                )
            dtype = self._dtype(leaf.dtype, _place(what, path))
            self.structs.append(jax.ShapeDtypeStruct(leaf.shape, dtype))

    @property
    def zeros(self) -> list[Any]:
        """A batch of zeros that takes no memory."""
        return [np.broadcast_to(np.zeros((), s.dtype), s.shape) for s in self.structs]

    def arrays_of(self, number: int, batch: Any) -> list[Any]:
        """The arrays of a batch, as they are to be copied; the first one says what all are like."""
        what = f"batch {number}"
        paths, tree = jax.tree_util.tree_flatten_with_path(batch)
        arrays = [self._array(leaf, _place(what, path)) for path, leaf in paths]
        if self.tree is None:
            self.set(jax.tree.unflatten(tree, arrays), what)
        if tree != self.tree:
            raise ValueError(
                f"{what} of {self._name} has the structure {tree}, but {self.tree} is expected"
            )
        for (path, _), array, struct in zip(paths, arrays, self.structs, strict=True):
            if array.shape != struct.shape or array.dtype != struct.dtype:
                raise ValueError(
                    f"{_place(what, path)} of {self._name} is {_shown(array)}, but {_shown(struct)} is "
                    "expected: all batches must be alike, the last one, too; pad it or leave it out"
                )
        return arrays

    def _array(self, leaf: Any, place: str) -> np.ndarray:
        if isinstance(leaf, jax.Array):
            raise TypeError(
                f"{place} of {self._name} is a jax Array, but a source must not compute with JAX: that "
                "could wait for the program that waits for the batch. Let it use NumPy, or give "
                "numpy.asarray(array) if the array is there already"
            )
        array = np.asarray(leaf)
        return _paged_in(array.astype(self._dtype(array.dtype, place), copy=False))

    def _dtype(self, dtype: Any, place: str) -> np.dtype[Any]:
        """The dtype in JAX, in the byte order of this machine."""
        if not jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
            native = np.dtype(dtype).newbyteorder("=")
            with contextlib.suppress(TypeError):  # JAX has not this one
                jax.typeof(np.empty((), native))
                if native != jax.dtypes.float0:
                    return self._narrowed.get(native, native)
        raise TypeError(
            f"{place} of {self._name} has the dtype {dtype}, of which JAX has no plain arrays"
        )


def _place(what: str, path: Any) -> str:
    return f"{what}{jax.tree_util.keystr(path)}"


def _shown(array: Any) -> str:
    return f"{np.dtype(array.dtype).name}[{','.join(map(str, array.shape))}]"


def _paged_in(array: np.ndarray) -> np.ndarray:
    """The array; if it is a part of a mapped file, that has been read into memory."""
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    if isinstance(base, mmap.mmap) and array.size:
        array = np.ascontiguousarray(array)  # a copy if it was in pieces
        array.reshape(-1).view(np.uint8).max()
    return array


def _without_jax(source: Any) -> Any:
    """An array, or a list of batches, with NumPy's arrays, whose items need no program."""
    if not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(source)):
        return source
    return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, source)


# -- sources -----------------------------------------------------------------------------------------
def source_of(source: Any) -> Source:
    """The source behind what the user gave."""
    if isinstance(source, (jax.Array, list, tuple)):
        source = _without_jax(source)
    if isinstance(source, (Mapping, str, bytes)):
        raise TypeError(
            f"a source of batches is a sequence or an iterable of them, but it is {type(source).__name__}"
        )
    if getattr(source, "shape", None) == ():
        raise TypeError("a source of batches is an array of them, but it is an array without axes")
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _Sequence(source)
    if hasattr(source, "__next__"):
        return Source(source)
    if hasattr(source, "__iter__"):
        return _Iterable(source)
    raise TypeError(
        "a source of batches is an iterable, an iterator, or has __getitem__ and __len__, but it is "
        f"{type(source).__name__}"
    )


@dataclasses.dataclass(frozen=True)
class Source:
    """An iterator."""

    source: Any

    def begin(self, position: int) -> Iterator[Any]:
        """The batches from there on."""
        return iter(self.source)

    def check_restart(self, name: str, position: int) -> None:
        raise TypeError(
            f"the source of {name} is {type(self.source).__name__}, which cannot begin anew. Give "
            "Batches an iterable (an object whose __iter__ makes an iterator each time), or something "
            "with __getitem__ and __len__"
        )


class _Iterable(Source):
    """What can be iterated anew."""

    def begin(self, position: int) -> Iterator[Any]:
        iterator = iter(self.source)
        skipped = sum(1 for _ in itertools.islice(iterator, position))
        self._check_length(skipped, position)
        return iterator

    def check_restart(self, name: str, position: int) -> None:
        if position < 0:
            raise ValueError(f"position={position} is negative")

    @staticmethod
    def _check_length(length: int, position: int) -> None:
        if position > length:
            raise ValueError(f"there is no batch {position}: the source has {length} batches")


class _Sequence(_Iterable):
    """What has item i."""

    def begin(self, position: int) -> Iterator[Any]:
        numbers = itertools.takewhile(lambda i: i < len(self.source), itertools.count(position))
        return (self.source[i] for i in numbers)

    def check_restart(self, name: str, position: int) -> None:
        super().check_restart(name, position)
        self._check_length(len(self.source), position)
