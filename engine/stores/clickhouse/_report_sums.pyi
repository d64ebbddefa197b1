from typing import Any

class ReportSums:
    """What the statements of a report have found, added up for each group and event."""

    # How far each series is counted, as `counted0` and so on say; and whether one has lost its narrow counts.
    counted: list[int]
    lost: bool

    def add(self, answer: bytes) -> None:
        """Add the rows of an answer in the format RowBinaryWithNamesAndTypes. Raises ValueError when it broke
        off, or is none."""

    def rows(self) -> list[tuple[Any, ...]]:
        """A row for each group and event: the group's values, the event, how many, segments and units; and
        p50, p95 and p99 of the times of answers, and of ages, microseconds: () when there are none."""
