"""What readers across the stores need of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from engine.credit.laws import Units
from engine.stream_id import StreamId


class ActivityUnits(Protocol):
    """The part of the activity store that an audit needs."""

    async def ping(self, timeout_s: float) -> None:
        """Ask whether the store answers. Raises Unavailable, ConfigError."""

    async def units_between(
        self, shard: int, first: StreamId, end: StreamId, timeout_s: float
    ) -> tuple[dict[int, Units], int]:
        """({organisation: units}, how many rows) of a shard from the place `first` to before `end`.

        Raises Unavailable, ConfigError.
        """

    async def ask(
        self, query: str, parameters: Mapping[str, int], timeout_s: float
    ) -> Sequence[Sequence[Any]]:
        """The rows of the answer to a question about many events. Raises Unavailable, ConfigError."""
