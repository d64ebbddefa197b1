"""Rule: which entries of a worker are not to be sent, because their organisation or their queue is paused."""

from __future__ import annotations

from collections.abc import Mapping

from engine.records import Entry
from engine.stream_id import StreamId


class Pauses:
    """The organisations that are paused, each with the last id of the ready stream by then; and whether the
    worker's queue is."""

    def __init__(
        self, organisations: Mapping[int, StreamId] | None = None, *, queue_paused: bool = False
    ) -> None:
        self._organisations = organisations or {}
        self._queue_paused = queue_paused

    def __bool__(self) -> bool:
        """Whether anything is paused."""
        return self._queue_paused or bool(self._organisations)

    def of_organisations(self, organisations: Mapping[int, StreamId]) -> Pauses:
        """The same with these organisations, and no others."""
        return Pauses(organisations, queue_paused=self._queue_paused)

    def of_queue(self, queue_paused: bool) -> Pauses:
        """The same with the queue paused, or not."""
        return Pauses(self._organisations, queue_paused=queue_paused)

    def hold(self, entry: Entry) -> bool:
        """Whether `entry` must not be sent now.

        One that became ready after the pause of its organisation shows that this has been resumed since.
        """
        if self._queue_paused:
            return True
        paused_at = self._organisations.get(entry.message.organisation_id)
        return paused_at is not None and StreamId.parse(entry.first_id or entry.entry_id) <= paused_at
