from engine.activity.reports import Sums

class ReportSums:
    """What the statements of a report have found, added up for each group and event."""

    # How far each series is counted, as `counted0` and so on say; and whether one has lost its narrow counts.
    counted: list[int]
    lost: bool

    def add(self, answer: bytes) -> None:
        """Add the rows of an answer in the format Native. Raises ValueError when it broke off, or is none."""

    def sums(self) -> Sums:
        """What was added, with quantiles of the times in `TIMED`."""
