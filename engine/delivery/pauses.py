"""Rule: which entries of a worker are not to be sent, because their organisation or their queue is paused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.records import Entry
from engine.stream_id import StreamId

# The clocks of Redis and of a worker are no further apart than this, as a rule, microseconds.
_CLOCKS_APART_US = 10_000_000


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
        return paused_at is not None and _ready_at(entry) <= paused_at

    def after(self, entries: Iterable[Entry], now_us: int) -> Pauses:
        """The same without organisations that have been resumed, as `entries`, read together, show.

        One of them became ready after the pause. What came before it must not go back and be sent after it.
        One whose validity is over, or nearly, shows nothing: Redis makes it ready also while its
        organisation is paused, so that it is ended.
        """
        resumed = set()
        for entry in entries:
            message = entry.message
            paused_at = self._organisations.get(message.organisation_id)
            lasts = message.expires_at_us > now_us + _CLOCKS_APART_US
            if paused_at is not None and lasts and _ready_at(entry) > paused_at:
                resumed.add(message.organisation_id)
        if not resumed:
            return self
        return self.of_organisations({o: at for o, at in self._organisations.items() if o not in resumed})


def _ready_at(entry: Entry) -> StreamId:
    """The entry in which its message became ready."""
    return StreamId.parse(entry.first_id or entry.entry_id)
