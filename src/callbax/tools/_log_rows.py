"""Rows of a log: from the arrays of calls in a program to blocks of rows with the same columns."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from callbax.tools._log_queue import Rows

Row = dict[str, Any]
Shape = tuple[int, ...]


class Block:
    """Rows with the same columns.

    Attributes:
      names: of the columns, "step" first.
      formats: how each column is written as text, for the % operator.
      texts: names and values of columns that are the same text in each row.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        formats: tuple[str, ...],
        texts: tuple[tuple[str, str], ...],
        rows: Rows | list[tuple[Any, ...]],
    ):
        self.names, self.formats, self.texts = names, formats, texts
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The values of each row."""
        if isinstance(self._rows, Rows):
            self._rows = self._rows.tuples()
        return self._rows

    def dicts(self) -> list[Row]:
        texts = dict(self.texts)
        return [dict(zip(self.names, row, strict=True)) | texts for row in self.rows]

    def scalars(self) -> Block:
        """The block with a column for each element of its arrays."""
        if not self._has_arrays():
            return self
        columns = zip(self.names, self.formats, self.rows[0], strict=True)
        flat = [(one, way) for name, way, value in columns for one in _elements(name, value)]
        rows = [tuple(itertools.chain.from_iterable(map(_listed, row))) for row in self.rows]
        names, formats = zip(*flat, strict=True)
        return Block(names, formats, self.texts, rows)

    def _has_arrays(self) -> bool:
        if isinstance(self._rows, Rows):
            return False
        return any([isinstance(value, np.ndarray) for value in self._rows[0]])

    def are_finite_numbers(self) -> bool:
        """Whether the rows hold nothing that JSON writes in a way of its own."""
        if "%s" in self.formats or self._has_arrays():
            return False
        if isinstance(self._rows, Rows):
            return self._rows.finite()
        return all([math.isfinite(sum(column)) for column in zip(*self._rows, strict=True)])

    def lines(self, names: Sequence[str], before: Sequence[str], end: str) -> str:
        """A line for each row: before[0], the value of the column names[0], ..., and the end."""
        places = [self.names.index(name) for name in names]
        if isinstance(self._rows, Rows):
            return self._rows.lines(places, before, end)
        fields = [self.formats[place] for place in places]
        texts = [text.replace("%", "%%") for text in (*before, end)]
        line = "".join(itertools.chain.from_iterable(zip(texts, [*fields, ""], strict=True)))
        values = [row[place] for row in self._rows for place in places]
        return (line * len(self)) % tuple(values)  # much faster than row by row


@dataclasses.dataclass(frozen=True)
class Columns:
    """What a call in a program logs.

    Attributes:
      names: of the arrays, "step" first.
      dtypes: of the arrays.
      ranks: how many dimensions each array has in the program; what is in front are lanes.
      texts: names and values of the metrics that are strings.
    """

    names: tuple[str, ...]
    dtypes: tuple[np.dtype, ...]
    ranks: tuple[int, ...]
    texts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, log: str, step: Any, metrics: dict[str, Any]) -> tuple[Columns, list[Any]]:
        """The columns of a call, and its arrays."""
        leaves, texts = {"step": _loggable(log, "the step", step)}, {}
        if jnp.ndim(step) != 0:
            raise ValueError(f"{log}: the step must be a scalar, but has shape {jnp.shape(step)}")
        for path, leaf in jax.tree_util.tree_flatten_with_path(metrics)[0]:
            name = _encodable(jax.tree_util.keystr(path, simple=True, separator="/"))
            if name in leaves or name in texts:
                raise ValueError(f"{log}: two columns would be called {name!r}; give another name")
            if isinstance(leaf, str):
                texts[name] = _encodable(leaf)
            else:
                leaves[name] = _loggable(log, f"the metric {name!r}", leaf)
        for name in (*leaves, *texts):
            array = name.endswith("]") and name.rpartition("[")[0]
            if array in leaves:
                raise ValueError(
                    f"{log}: {name!r} could be an element of {array!r}, or a lane of it under vmap, as "
                    "well; give another name"
                )
        values = list(leaves.values())
        dtypes = tuple(np.dtype(jax.typeof(value).dtype) for value in values)
        ranks = tuple(map(jnp.ndim, values))
        return cls(tuple(leaves), dtypes, ranks, tuple(texts.items())), values

    @functools.cached_property
    def formats(self) -> tuple[str, ...]:
        """As for a Block."""
        return tuple(map(_format, self.dtypes))

    @property
    def number_dtypes(self) -> list[str]:
        """As RowQueue.add_call expects it."""
        return [] if any(self.ranks) else [dtype.str[1:] for dtype in self.dtypes]

    def blocks(self, rows: Rows) -> list[Block]:
        """Rows of a call with these arrays."""
        if rows.packed:
            return [Block(self.names, self.formats, self.texts, rows)]
        made: list[Block] = []
        for names, formats, row in itertools.chain.from_iterable(map(self._rows, rows.arrays())):
            if not made or made[-1].names != names:
                made.append(Block(names, formats, self.texts, []))
            made[-1].rows.append(row)
        return made

    def _rows(self, arrays: Sequence[np.ndarray]) -> Iterator[tuple[Any, Any, tuple[Any, ...]]]:
        """Names, formats and values of the row of a call; of several, if its lanes differ in the step."""
        step, *metrics = arrays
        pairs = list(zip(metrics, self.ranks[1:], strict=True))
        lanes = tuple(array.shape[: array.ndim - rank] for array, rank in pairs)
        if 0 in step.shape or any(0 in shape for shape in lanes):
            return  # a batch without lanes
        values = itertools.chain.from_iterable(_lanes_of(array, rank) for array, rank in pairs)
        names, formats = self._lane_columns(lanes)
        if step.size == 1:
            yield names, formats, (step.item(), *values)
            return
        row = tuple(values)
        steps, places = np.unique(step, return_inverse=True)
        for place, one in enumerate(steps.tolist()):
            live = [True]
            for shape in lanes:
                of_step = places.reshape(step.shape) == place
                # What is shared along an axis is of the step if any lane of that axis is.
                shared = tuple(axis for axis, size in enumerate(shape) if size == 1)
                of_step = of_step.any(axis=shared, keepdims=True)
                live += np.broadcast_to(of_step, shape).ravel().tolist()
            names_of_step, formats_of_step, values_of_step = (
                tuple(itertools.compress(each, live)) for each in (names, formats, (one, *row))
            )
            yield names_of_step, formats_of_step, values_of_step

    @functools.lru_cache(256)  # noqa: B019 - what it keeps is small
    def _lane_columns(self, lanes: tuple[Shape, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names and formats of a row, with a column for each lane."""
        names, formats = [self.names[0]], [self.formats[0]]
        for name, way, shape in zip(self.names[1:], self.formats[1:], lanes, strict=True):
            several = indexed(name, shape) if np.prod(shape) > 1 else (name,)
            names += several
            formats += [way] * len(several)
        return tuple(names), tuple(formats)


def indexed(name: str, shape: Shape) -> tuple[str, ...]:
    """The names of an array's elements.

    >>> indexed("w", (1, 2))
    ('w[0,0]', 'w[0,1]')
    """
    return tuple(f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*shape))


def scalars(row: Row) -> Row:
    """The row, with a column for each element of its arrays."""
    columns = (zip(_elements(*column), _listed(column[1]), strict=True) for column in row.items())
    return dict(itertools.chain.from_iterable(columns))


def _lanes_of(array: np.ndarray, rank: int) -> list[Any]:
    """The value of each lane: a number, or an array if it is one in the program."""
    if rank == 0:
        return array.ravel().tolist()
    lanes = array.ndim - rank
    return list(array.reshape(math.prod(array.shape[:lanes]), *array.shape[lanes:]))


def _elements(name: str, value: Any) -> tuple[str, ...]:
    return indexed(name, value.shape) if isinstance(value, np.ndarray) else (name,)


def _listed(value: Any) -> list[Any]:
    return value.ravel().tolist() if isinstance(value, np.ndarray) else [value]


def _format(dtype: Any) -> str:
    """How numbers of the dtype are written so that they can be read back exactly."""
    if dtype.kind in "iu":
        return "%d"
    if dtype.kind == "f":
        return "%.9g" if dtype.itemsize <= 4 else "%.17g"
    return "%s"


def _encodable(text: str) -> str:
    """The text; what UTF-8 has no bytes for, such as a part of a file's name, as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _loggable(log: str, what: str, leaf: Any) -> Any:
    """The metric as an array of a type that NumPy has itself."""
    try:
        dtype = jax.typeof(leaf).dtype
        if dtype == jax.dtypes.float0:
            raise TypeError
    except TypeError:
        kind = type(leaf).__name__
        kind += f" of dtype {leaf.dtype}" if isinstance(leaf, np.ndarray) else ""
        expected = "a number" if what == "the step" else "an array, a number or a string"
        raise TypeError(f"{log}: {what} must be {expected}, but is of type {kind}") from None
    if jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        raise TypeError(f"{log}: {what} is a key array; log jax.random.key_data of it")
    if dtype.kind in "biufc":
        return leaf
    # bfloat16, float8, int4, ...: these hold all of their values.
    return jnp.asarray(leaf, jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else jnp.int32)
