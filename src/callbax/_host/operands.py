"""Operand: one array argument of the lanes of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

Index = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Operand:
    """One array argument of some lanes: its rows, and which of them each lane gets.

    A lane owns its arguments: it may write to them, and keep them. Only if they are read-only for it
    (zero_copy) do lanes share memory, with one another and with XLA.

    Attributes:
      row_of: the number of each lane's row, unless each has its own in order, or all share one.
      is_one_row: all lanes share one row.
      copies: rows must be copied to be a lane's own.
    """

    rows: np.ndarray
    row_of: list[int] | None
    is_one_row: bool
    copies: bool

    @classmethod
    def of(
        cls, array: np.ndarray, front: Index, shape: Index, *, is_xlas: bool, read_only: bool
    ) -> Operand:
        """Of an argument of the whole call, whose batch dimensions `front` broadcast to `shape`."""
        rows = array.reshape(-1, *array.shape[len(front) :])
        is_shared = front != shape
        row_of = None
        if is_shared:
            numbers = np.arange(len(rows)).reshape(front)
            row_of = np.broadcast_to(numbers, shape).ravel().tolist()
        copies = not read_only and (is_xlas or is_shared)
        return cls(rows, row_of, is_shared and len(rows) == 1, copies)

    @property
    def of_one_lane(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.rows.shape[1:], self.rows.dtype)

    def of_lane(self, lane: int) -> np.ndarray:
        row = lane if self.row_of is None else self.row_of[lane]
        array = self.rows[0 if self.is_one_row else row, ...]
        return array.copy() if self.copies else array

    def stacked(self, lanes: Sequence[int], repeats: bool) -> np.ndarray:
        """What one call for these lanes gets; what they share has size 1, unless it is repeated."""
        array = self._rows_of(lanes)
        if repeats and len(array) != len(lanes):
            return np.repeat(array, len(lanes), axis=0)
        return array.copy() if self.copies and np.may_share_memory(array, self.rows) else array

    def part(self, lanes: Sequence[int]) -> Operand:
        """The operand of these lanes alone, counted from 0."""
        return Operand(self._rows_of(lanes), None, self.is_one_row, self.copies and self.is_one_row)

    def _rows_of(self, lanes: Sequence[int]) -> np.ndarray:
        """The rows of these lanes, in order; a single row if they all share one."""
        if self.is_one_row:
            return self.rows
        if self.row_of is not None:
            return self.rows[[self.row_of[lane] for lane in lanes]]
        first, last = lanes[0], lanes[-1]
        if last - first + 1 == len(lanes):  # lanes are in order
            return self.rows[first : last + 1]
        return self.rows[list(lanes)]
