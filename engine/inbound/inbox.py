"""Service: what recipients wrote, from Redis to where it stays.

Providers put what they bring on one stream in Redis, and are answered after that. One inbox is active, the
one with the lease; it reads the stream, puts parts together, finds the organisation, heeds STOP and START,
answers them where the organisation wants that, stores the message in ClickHouse, has the organisation told,
and removes it from the stream. Every step before the removal may be done again: the message has the same id,
an opt-out is there once, and a reply is known by the message that it answers.

    killed, or an answer lost   the next round, or the next inbox, does all of it again
    frozen beyond its lease     two inboxes do the same, once each; what both stored is there once
    PostgreSQL away             nothing is taken from the stream; providers go on being answered
    ClickHouse away             opt-outs are heeded and answered all the same; the messages stay in Redis
    no route has the number     stored with the organisation 0: operators see it
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from engine.errors import Refusal
from engine.inbound.assembly import assemble
from engine.inbound.auto_replies import LATE_US, WordMessage, reply_to
from engine.inbound.ports import (
    InboundEvents,
    InboundRoutes,
    InboundStore,
    InboundStream,
    OptOuts,
    ReplyQueue,
    ReplyTexts,
)
from engine.inbound.records import Action, Assembled, InboundMessage
from engine.inbound.routes import RouteTable
from engine.inbound.words import WordList
from engine.intake.phone_numbers import e164
from engine.leases.leased_rounds import LeasedRounds
from engine.stream_id import StreamId

log = structlog.get_logger("inbound")

_LOOK_S = 0.5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class InboundCounts(msgspec.Struct):
    """What became of inbound messages."""

    # Stored, and of those the ones to a number without a route.
    stored: int = 0
    unrouted: int = 0
    # Recipients that were opted out, and in again, as they wrote.
    stopped: int = 0
    started: int = 0
    # Words that are not answered because their sender was answered too often.
    replies_held_back: int = 0


class Inbox:
    """One inbox process; see the module."""

    def __init__(
        self,
        stream: InboundStream,
        routes: InboundRoutes,
        opt_outs: OptOuts,
        store: InboundStore,
        events: InboundEvents,
        words: WordList,
        texts: ReplyTexts,
        replies: ReplyQueue,
        owner: str,
        *,
        part_wait_s: float,
        now_us: Callable[[], int],
        look_s: float = _LOOK_S,
    ) -> None:
        """`owner` is unique per process incarnation. `part_wait_s`: how long missing parts are waited for."""
        self._stream = stream
        self._routes = routes
        self._opt_outs = opt_outs
        self._store = store
        self._events = events
        self._words = words
        self._texts = texts
        self._replies = replies
        self._part_wait_us = round(part_wait_s * 1e6)
        self._now_us = now_us
        self._rounds = LeasedRounds(
            stream,
            owner,
            self.round,
            of="inbox",
            log=log,
            trouble="inbound messages wait in Redis",
            look_s=look_s,
        )
        self.counts = InboundCounts()

    async def run(self, draining: asyncio.Event) -> None:
        """Work until `draining` is set; what is on the stream then is left to the next inbox."""
        await self._rounds.run(draining)

    async def round(self) -> None:
        """Do with all that is complete what is to be done. Raises Unavailable, ConfigError."""
        kept = await self._stream.read()
        if not kept:
            return
        messages = assemble(kept, self._now_us(), self._part_wait_us)
        if not messages:
            return
        routes = RouteTable(await self._routes.routes())
        found: list[InboundMessage] = []
        written: list[WordMessage] = []
        # By organisation and number; the last word of each counts.
        wishes: dict[tuple[int, str], InboundMessage] = {}
        for one in messages:
            message, meant, languages = self._message(one, routes)
            found.append(message)
            if message.action and (number := _number(message.sender)) is not None:
                written.append(WordMessage(message, number, languages, meant))
                if message.action != "help":
                    wishes.update(dict.fromkeys(((organisation, number) for organisation in meant), message))
        await self._heed(wishes)
        await self._reply([one for one in written if not routes.has(one.number)], wishes)
        await self._store.add(found)
        await self._events.add([message for message in found if message.organisation_id])
        await self._stream.remove([stream_id for one in messages for stream_id in one.stream_ids])
        self.counts.stored += len(found)
        self.counts.unrouted += sum(not message.organisation_id for message in found)

    def _message(
        self, one: Assembled, routes: RouteTable
    ) -> tuple[InboundMessage, list[int], tuple[str, ...]]:
        """The message, the organisations that its STOP, START or HELP is meant for, the word's languages."""
        part, wish, meant = one.first, self._words.find(one.text), []
        organisation_id, keyword = routes.find(part.recipient, one.text)
        action: Action = ""
        if wish.action:
            meant = routes.meant(part.recipient, wish.about)
            # "Cancel tomorrow" asks for nothing, unless TOMORROW is a keyword.
            if meant or not wish.about:
                action = wish.action
            if len(meant) == 1:
                organisation_id, keyword = meant[0], wish.about
        message = InboundMessage(
            id=_id_of(one.stream_ids[0]),
            organisation_id=organisation_id,
            at=_EPOCH + timedelta(microseconds=part.at_us),
            provider=part.provider,
            sender=part.sender,
            recipient=part.recipient,
            text=one.text,
            keyword=keyword,
            action=action,
            missing_parts=one.missing,
        )
        return message, meant, wish.languages

    async def _heed(self, wishes: Mapping[tuple[int, str], InboundMessage]) -> None:
        """Opt numbers out of organisations, and in again."""
        grouped: dict[tuple[int, Action], dict[str, str]] = {}
        for (organisation_id, number), message in wishes.items():
            grouped.setdefault((organisation_id, message.action), {})[number] = message.id
        for (organisation_id, action), ids in grouped.items():
            try:
                if action == "stop":
                    self.counts.stopped += await self._opt_outs.add(
                        organisation_id, list(ids), "inbound", ids
                    )
                else:
                    self.counts.started += await self._opt_outs.remove(organisation_id, list(ids), "inbound")
            except Refusal:
                log.error("a route of inbound messages has no organisation", organisation_id=organisation_id)

    async def _reply(
        self, written: Sequence[WordMessage], wishes: Mapping[tuple[int, str], InboundMessage]
    ) -> None:
        """Have the words answered that were heeded, where an organisation wants that."""
        last_us = self._now_us() - LATE_US
        written = [one for one in written if one.message.at.timestamp() * 1e6 > last_us]
        if not written:
            return
        texts = await self._texts.replies(sorted({of for one in written for of in one.meant}))
        if not texts:
            return
        stops = [
            (of, number, message.id) for (of, number), message in wishes.items() if message.action == "stop"
        ]
        stopped = await self._opt_outs.made_by(stops) if stops else set[tuple[int, str]]()

        def answers(one: WordMessage, organisation_id: int) -> bool:
            place, message = (organisation_id, one.number), one.message
            if message.action == "help":
                return True
            return wishes[place] is message and (message.action == "start" or place in stopped)

        due = [
            reply
            for one in written
            if (reply := reply_to(one._replace(meant=[of for of in one.meant if answers(one, of)]), texts))
        ]
        if due:
            self.counts.replies_held_back += len(due) - await self._replies.put(due)


def _number(sender: str) -> str | None:
    """The sender in E.164; None when it is no number that messages could be sent to."""
    try:
        return e164(sender)
    except Refusal:
        return None


def _id_of(stream_id: StreamId) -> str:
    """A UUID of version 7 (RFC 9562, 5.7) of a place in the stream; its time is that of the place."""
    made = uuid.uuid5(uuid.NAMESPACE_OID, f"inbound {stream_id}").int & (1 << 62) - 1
    return str(uuid.UUID(int=stream_id.ms << 80 | 0x7 << 76 | (made >> 50 & 0xFFF) << 64 | 0b10 << 62 | made))
