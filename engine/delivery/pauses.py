"""Rule: which entries of a worker belong to organisations that are paused."""

from __future__ import annotations

from collections.abc import Mapping

from engine.records import Entry
from engine.stream_id import StreamId


class Pauses:
    """The organisations that are paused, each with the last id of the ready stream by then."""

    def __init__(self, organisations: Mapping[int, StreamId] | None = None) -> None:
        self._organisations = organisations or {}

    def __bool__(self) -> bool:
        """Whether anybody is paused."""
        return bool(self._organisations)

    def hold(self, entry: Entry) -> bool:
        """Whether `entry` must not be sent now.

        One that became ready after the pause shows that its organisation has been resumed since.
        """
        paused_at = self._organisations.get(entry.message.organisation_id)
        return paused_at is not None and StreamId.parse(entry.first_id or entry.entry_id) <= paused_at
