from collections.abc import Callable

class ColumnBuilder:
    """Appends rows to columns; `take` gives the columns. For one thread at a time."""

    # How many rows were appended.
    rows: int
    # (message id, attempt, `kept`) of each row that has one.
    kept: list[tuple[str, int, str]]

    def __init__(self, stored: Callable[[bytes], bytes] | None = None) -> None:
        """`stored`: what is stored for a recipient's number, in UTF-8; None: the number."""

    def add(self, entry: bytes, shard: int, ms: int, sequence: int) -> int:
        """Append the rows of an entry; how many. -1: it is not plain, and nothing was appended.

        `shard`, `ms`, `sequence`: where it stands. Raises OverflowError when one of them fits no column.
        """

    def take(self) -> list[bytes]:
        """The values of each column, packed: those of `ActivityRow` in order but for `kept`, then shard,
        stream_ms, stream_seq. The builder is empty then, and forgets `kept`."""
