"""Replies to STOP, START and HELP: who is answered what, once. Real Redis, PostgreSQL and ClickHouse."""

from __future__ import annotations

import msgspec
import pytest

from engine import redis_keys as keys
from engine.errors import Refusal, TooMany, Unavailable
from engine.inbound.auto_replies import LATE_US, REPLIES_MAX, AutoReply, DueReply, sender_of
from engine.inbound.inbox import Inbox
from engine.inbound.reply_sending import AutoReplies, Submission
from engine.intake.under_way import Submitted
from engine.stores.postgres.auto_replies import REPLIES_OF_ONE_MAX, AutoReplyBook
from engine.stores.redis.auto_replies import RedisReplyQueue
from tests.inbound.test_inbox import NOW_US, OTHER, TO, World, clickhouse, organisation, world

__all__ = ["clickhouse", "world"]
STOPPED, HELP = "You get no more messages.", "ACME, 089 123456"


class Answering:
    """The world with an organisation that answers STOP and HELP."""

    def __init__(self, world: World, of: int) -> None:
        self.world, self.of = world, of
        self.book = AutoReplyBook(world.directory.pool)
        self.queue = RedisReplyQueue(world.link)

    async def put(self, action: str, text: str, of: int = 0, **more: str) -> None:
        reply = msgspec.convert({"action": action, "text": text, **more}, AutoReply)
        await self.book.put(of or self.of, reply)

    async def hear(self, *texts: str, sender: str = TO, to: str = "12345") -> list[DueReply]:
        """Have the inbox take these; all replies that wait now."""
        for text in texts:
            await self.world.write(text, sender, to)
        await self.world.inbox.round()
        return await self.replies()

    async def replies(self) -> list[DueReply]:
        return [one.reply for one in await self.queue.waiting(None)]


@pytest.fixture
async def answering(world: World) -> Answering:
    one = Answering(world, await organisation(world))
    await one.put("stop", STOPPED)
    await one.put("help", HELP)
    return one


async def test_a_word_is_answered_from_the_number_that_was_written_to(answering: Answering) -> None:
    stop, help_ = await answering.hear("stop", "Help!", "what is this?")
    [message] = [m for m in await answering.world.of(answering.of) if m.action == "stop"]
    assert stop == DueReply(
        message_id=message.id, organisation_id=answering.of, to=TO, sender="12345", text=STOPPED, at_us=NOW_US
    )
    assert help_.text == HELP
    await answering.world.link.call("DEL", keys.AUTO_REPLIES)
    assert await answering.hear("STOP", "stop") == [], "who has opted out before is not told again"
    assert await answering.hear("start") == [], "the organisation has said nothing for START"
    assert [reply.text for reply in await answering.hear("Stop")] == [STOPPED]


async def test_what_was_not_removed_is_heeded_again_and_answered_once(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: object) -> None:
        raise Unavailable("Killed here.")

    for last, step in enumerate(("_reply", "_store", "_stream")):
        await answering.world.write("STOP", f"+491511234500{last}")
        with monkeypatch.context() as patch:
            if step == "_reply":
                patch.setattr(Inbox, "_reply", lost)
            else:
                patch.setattr(
                    getattr(answering.world.inbox, step), "add" if step == "_store" else "remove", lost
                )
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await answering.world.inbox.round()
        assert len(await answering.hear()) == 1
        await answering.world.link.call("DEL", keys.AUTO_REPLIES)


async def test_the_reply_of_the_number_and_of_the_words_language_comes_first(answering: Answering) -> None:
    await answering.put("help", "Hilfe", language="de")
    await answering.put("help", "all of 12345", number="12345")
    await answering.put("help", "Hilfe von 777", number="777", language="de")
    await answering.put("help", "", number="31337")
    for number in ("777", "31337"):
        await organisation_route(answering, number)
    said = {}
    for number, text in (("12345", "HILFE"), ("777", "hilfe"), ("777", "help"), ("31337", "help")):
        await answering.world.link.call("DEL", keys.AUTO_REPLIES, keys.replied_key(answering.of, TO))
        said[number, text] = [reply.text for reply in await answering.hear(text, to=number)]
    assert said == {
        ("12345", "HILFE"): ["all of 12345"],
        ("777", "hilfe"): ["Hilfe von 777"],
        ("777", "help"): [HELP],
        ("31337", "help"): [],
    }


async def organisation_route(answering: Answering, number: str) -> None:
    from_ = await answering.world.routes.routes()
    await answering.world.routes.put(
        msgspec.structs.replace(from_[0], number=number, keyword="", organisation_id=answering.of)
    )


async def test_nobody_is_answered_more_often_than_allowed_and_no_number_of_ours_ever(
    answering: Answering,
) -> None:
    assert len(await answering.hear(*["help"] * (REPLIES_MAX + 3))) == REPLIES_MAX
    assert answering.world.inbox.counts.replies_held_back == 3
    assert len(await answering.hear("help", sender=OTHER)) == REPLIES_MAX + 1
    # A loop of two of our own numbers.
    await organisation_route(answering, "4915112345670")
    for sender in ("+4915112345670", "ACME", "12345"):
        assert len(await answering.hear("help", "stop", sender=sender)) == REPLIES_MAX + 1
    ttl = await answering.world.link.call("TTL", keys.replied_key(answering.of, TO))
    assert 0 < ttl <= 3600


async def test_a_stop_for_all_who_share_a_number_is_answered_by_one_of_them(world: World) -> None:
    a, b = await organisation(world, "778", "A"), await organisation(world, "778", "B")
    one = Answering(world, b)
    await one.put("stop", "of A", of=a)
    await one.put("stop", "of B", of=b)
    assert [(r.organisation_id, r.text) for r in await one.hear("stop", to="778")] == [(a, "of A")]
    await world.opt_outs.remove(b, [TO], "api")
    await world.link.call("DEL", keys.AUTO_REPLIES)
    # It is news to B alone.
    assert [(r.organisation_id, r.text) for r in await one.hear("stop", to="778")] == [(b, "of B")]


async def test_what_waited_for_long_is_heeded_and_not_answered(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answering.world.write("stop")
    monkeypatch.setattr(answering.world.inbox, "_now_us", lambda: NOW_US + LATE_US)
    assert await answering.hear() == []
    assert answering.world.inbox.counts.stopped == 1


class Ingest:
    """Takes submissions as an ingest process does, and knows the keys that it has seen."""

    def __init__(self) -> None:
        self.taken: dict[str, Submission] = {}
        self.fault: Exception | None = None

    async def submit(self, one: Submission) -> Submitted:
        if self.fault is not None:
            raise self.fault
        known = one.idempotency_key in self.taken
        self.taken.setdefault(one.idempotency_key, one)
        return Submitted(b"", known)


async def test_replies_are_submitted_until_they_are_decided_and_then_removed(world: World) -> None:
    queue, ingest, now_us = RedisReplyQueue(world.link), Ingest(), NOW_US
    sending = AutoReplies(queue, ingest.submit, "one", now_us=lambda: now_us)
    due = [
        DueReply(message_id=f"id {n}", organisation_id=1, to=TO, sender="12345", text=HELP, at_us=NOW_US)
        for n in range(2)
    ]
    assert await queue.put(due) == await queue.put(due) == 2
    busy = TooMany("rate_limited", "Too many.", "rate_max", quota=1, window_s=1, remaining=0, retry_after_s=1)
    for fault in (busy, Unavailable("Redis is away.")):
        ingest.fault = fault
        await sending.round()
        await sending.round()
        assert len(await queue.waiting(None)) == 2
    ingest.fault = None
    await sending.round()
    assert await queue.waiting(None) == []
    one = ingest.taken["reply\0id 0"]
    assert (one.organisation_id, one.draft.to, one.draft.sender, one.draft.reference) == (
        1,
        TO,
        "12345",
        "id 0",
    )
    assert (sending.counts.sent, sending.counts.refused, sending.counts.late) == (2, 0, 0)

    ingest.fault = Refusal("insufficient_credit", 402, "Too little.")
    await queue.put([msgspec.structs.replace(due[0], message_id="poor", to=OTHER)])
    await sending.round()
    assert (sending.counts.refused, await queue.waiting(None)) == (1, [])
    ingest.fault = busy
    await queue.put([msgspec.structs.replace(due[0], message_id="late", to=OTHER)])
    now_us += LATE_US + 1
    await sending.round()
    assert (sending.counts.late, await queue.waiting(None)) == (1, [])


async def test_an_entry_that_is_no_reply_is_set_aside(world: World) -> None:
    queue = RedisReplyQueue(world.link)
    await world.link.call("XADD", keys.AUTO_REPLIES, "*", "b", b"\xc1")
    assert await queue.waiting(None) == []
    assert await world.link.call("XLEN", keys.AUTO_REPLIES) == 0


@pytest.mark.parametrize(
    ("recipient", "sender"),
    [("12345", "12345"), ("14155550123", "+14155550123"), ("4915112345678", "+4915112345678"),
     ("015112345678", "015112345678"), ("ACME", "ACME")],
)  # fmt: skip
def test_an_international_number_answers_with_its_plus(recipient: str, sender: str) -> None:
    assert sender_of(recipient) == sender


async def test_an_organisation_has_so_many_replies_and_no_more(answering: Answering) -> None:
    async with answering.world.directory.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO auto_replies (organisation_id, action, number, text)"
            " SELECT $1, 'stop', (1000 + n)::text, 'x' FROM generate_series(1, $2) n",
            answering.of, REPLIES_OF_ONE_MAX - 2,
        )  # fmt: skip
    with pytest.raises(Refusal) as refused:
        await answering.put("start", "x")
    assert refused.value.code == "too_many_auto_replies"
    await answering.put("stop", "changed")
    await answering.book.remove(answering.of, "help", "", "")
    await answering.put("start", "x")
    with pytest.raises(Refusal) as unknown:
        await answering.book.of(10**12)
    assert unknown.value.status == 404
