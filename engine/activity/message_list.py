"""Service: the messages of an organisation, the newest first, as far as their events are archived.

An event is archived within about a second of being recorded; the answer says up to when all are (`as_of`). So
a page costs the same however much is under way: it reads the acceptances that the filter matches, in the
order in which the table keeps them, and the events of those. A page begins behind the message that ended the
one before, so what is accepted meanwhile moves none.

At most `_LOOKED_MAX` messages are looked at for a page. When a filter by status lets few of them through, the
page is short, and the next one goes on from there. One organisation has one page made at a time in a process;
the others wait for it.

    the filter needs longer than allowed   Unavailable, which advises a shorter time
    ClickHouse does not answer             Unavailable; the same page may be asked for again
    Redis does not answer                  Unavailable
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from engine import ids
from engine.activity.history import MessageSummary, MessageView, describe, rfc3339
from engine.activity.ports import ArchivedMessages, ArchiveProgress
from engine.activity.records import MessageFilter, MessageKey
from engine.lifecycle import EVENTS, MessageEvent, Status
from engine.shards import shard_of

# Messages that are looked at for one page at most, and in one query.
_LOOKED_MAX, _LOOKED = 2_000, 500
# So many are described before others have a turn.
_TURN = 50
# How far Redis' clock may be ahead of the one that accepted a message, microseconds.
_CLOCK_SLACK_US = 2_000_000


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list."""

    # The newest first.
    messages: list[MessageSummary]
    # The `cursor` of the next page; None on the last.
    next: str | None
    # What was recorded before is in the list.
    as_of: str


_SHOWN = MessageSummary.__struct_fields__


class MessageLists:
    """Makes pages of messages."""

    def __init__(
        self, store: ArchivedMessages, progress: ArchiveProgress, shards: int, now_us: Callable[[], int]
    ) -> None:
        self._store = store
        self._progress = progress
        self._shards = shards
        self._now_us = now_us
        # Of organisations that have a page made: who is at it, and how many wait.
        self._turns: dict[int, tuple[asyncio.Lock, int]] = {}

    async def page(self, organisation_id: int, wanted: MessageFilter, before: str, limit: int) -> MessagePage:
        """At most `limit` messages that are older than the message `before`; "": the newest.

        Raises Unavailable, ConfigError."""
        async with self._turn(organisation_id):
            oldest = await self._progress.oldest_ms(shard_of(organisation_id, self._shards))
            as_of_us = (self._now_us() if oldest is None else oldest * 1000) - _CLOCK_SLACK_US
            page: list[MessageSummary] = []
            events, looked = _events_of(wanted.status), 0
            while True:
                count = min(
                    _LOOKED, _LOOKED_MAX - looked, limit - len(page) if wanted.status is None else _LOOKED
                )
                found = await self._store.matching(organisation_id, wanted, events, before, count)
                described = await self._described(organisation_id, found)
                for message_id in found:
                    if len(page) == limit:
                        break
                    before, view = message_id, described.get(message_id)
                    if view is not None and wanted.status in (None, view.status):
                        page.append(_summary(view))
                looked += len(found)
                if len(found) < count and (not found or before == found[-1]):
                    return MessagePage(messages=page, next=None, as_of=rfc3339(as_of_us))
                if len(page) == limit or looked >= _LOOKED_MAX:
                    return MessagePage(messages=page, next=before, as_of=rfc3339(as_of_us))

    async def _described(self, organisation_id: int, message_ids: Sequence[str]) -> dict[str, MessageView]:
        keys = [
            MessageKey(organisation_id, message_id, accepted_at_us)
            for message_id in message_ids
            if (accepted_at_us := ids.accepted_at_us(message_id)) is not None
        ]
        rows = await self._store.rows_of(keys)
        described = {}
        for number, key in enumerate(keys):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            if rows[key]:
                described[key.message_id] = describe(rows[key])
        return described

    @asynccontextmanager
    async def _turn(self, organisation_id: int) -> AsyncIterator[None]:
        """One at a time of an organisation."""
        lock, waiting = self._turns.get(organisation_id, (asyncio.Lock(), 0))
        self._turns[organisation_id] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._turns.pop(organisation_id)
            if waiting > 1:
                self._turns[organisation_id] = lock, waiting - 1


def _events_of(status: Status | None) -> Sequence[MessageEvent]:
    """The events of which a message of this status has one. Any message has one of the first."""
    if status is None:
        return ("accepted", "scheduled")
    return tuple(event for event, meaning in EVENTS.items() if meaning.status == status)


def _summary(view: MessageView) -> MessageSummary:
    return MessageSummary(**{name: getattr(view, name) for name in _SHOWN})
