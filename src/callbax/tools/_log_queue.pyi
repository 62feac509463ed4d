"""The rows of a log that wait to be written."""

from collections.abc import Sequence

class Rows:
    """Consecutive rows of one call in a program."""

    def __len__(self) -> int: ...
    @property
    def call(self) -> int:
        """What RowQueue.add_call has returned."""

    @property
    def packed(self) -> bool:
        """Whether all are numbers, and not arrays."""

    def row_bytes(self) -> int:
        """The bytes of the oldest row."""

    def arrays(self) -> list:
        """The arrays of each row that is not packed."""

    def tuples(self) -> list:
        """The numbers of each row that is packed."""

    def lines(self, columns: Sequence[int], before: Sequence[str], end: str) -> str:
        """
        A line for each row that is packed: before[0], the number of columns[0], ..., end.
        """

    def finite(self) -> bool:
        """Whether no number is infinite or NaN."""

class RowQueue:
    """The rows that wait, in the order in which they came."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    @property
    def idle(self) -> bool:
        """Whether the thread that writes sleeps until it is woken."""

    @idle.setter
    def idle(self, arg: bool, /) -> None: ...
    @property
    def attend_above(self) -> int:
        """See `append`."""

    @attend_above.setter
    def attend_above(self, arg: int, /) -> None: ...
    def add_call(self, dtypes: Sequence[str]) -> int:
        """
        A number for a call whose rows are numbers of these dtypes ('i4', ...), or any arrays.
        """

    def append(self, call: int, values: tuple) -> bool:
        """
        Appends arrays; returns whether the thread is idle, or more than `attend_above` rows wait.
        """

    def take(self) -> Rows | None:
        """Takes some of the oldest rows, if there are any."""

    def put_back(self, rows: Rows) -> None:
        """Puts rows that were taken in front of all others."""

    def drop(self, count: int) -> None:
        """Drops the oldest rows."""
