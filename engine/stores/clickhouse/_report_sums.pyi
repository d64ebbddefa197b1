from engine.activity.reports import Sums

class TooManyGroups(Exception):
    """The answers have more groups than they may."""

class ReportSums:
    """What the statements of a report have found, added up for each group and event. Once an answer was
    refused nothing more can be added, and nothing be had."""

    # How far each series is counted, as `counted0` and so on say; and whether one has lost its narrow counts.
    counted: list[int]
    lost: bool

    def __init__(self, groups_max: int = ...) -> None:
        """`groups_max`: most groups that answers may have, with those that come to nothing; without it they
        may have any number."""

    def add(self, answer: bytes) -> None:
        """Add the rows of an answer in the format Native. Raises ValueError when it broke off, or is none,
        and TooManyGroups as soon as there are."""

    def sums(self) -> Sums:
        """What was added, with quantiles of the times in `TIMED`: of all groups that do not come to nothing.
        Raises ValueError when an answer was refused."""
