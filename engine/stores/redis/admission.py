"""The holder's side of the shards in Redis: `register`, `admit`, `beat` and `fence` in functions/queue.

Every step may be repeated after `Unavailable`; functions/queue says of each what a repetition does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine import bundle_format
from engine import redis_keys as keys
from engine.credit.flush import Admitted, Flush
from engine.credit.ledger_records import Stopped
from engine.credit.memory_mark import MARK
from engine.credit.records import LedgerAnswer
from engine.credit.standstill import LOST_MS, NOTED_MS
from engine.errors import Broken, Fenced, Full, Unavailable
from engine.limits.records import RateLevel
from engine.records import NO_RECORD, Replay
from engine.stores.redis import admit_wire
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.memory import memory_of
from engine.stores.redis.pulse import Pulse, pulsed, readable
from engine.stores.redis.replicas import WAIT_MS, confirm, wait
from engine.stores.redis.wire import OutOfMemory, ReplyError

_answer = msgspec.msgpack.Decoder(LedgerAnswer)

# How long an idempotency key is remembered, seconds. The longest time, `admit_wire.KEY_TTL_S`, holds while at
# most half of Redis' memory is used. It shrinks to the shortest at the mark from which nothing is admitted.
_KEY_TTL_MIN_S = 3600
_HALF = 0.5
# What ledgers note of the books in the head of a usage stream.
_NOTES = ("waits", "leads", "books", "unclosed")


class RedisAdmission:
    """The port `AdmissionStore`. Every call raises Unavailable, and Broken when Redis refuses a command."""

    def __init__(
        self,
        link: RedisLink,
        inbox_link: RedisLink,
        shards: int,
        pulse: Pulse | None = None,
        *,
        accepted_on: int = 1,
        texts: bool = False,
    ) -> None:
        """`link` is for commands; `inbox_link` blocks while it waits for answers of the ledger.

        `pulse` goes with each registration and each heartbeat. `accepted_on`: on how many machines a
        flush with submissions must be to count as applied. `texts`: whether the texts of messages are
        recorded.
        """
        self._texts = texts
        self._link = link
        self._inbox_link = inbox_link
        self._shards = range(shards)
        self._pulse = pulse
        self._key_ttl_s = admit_wire.KEY_TTL_S
        self._replicas = accepted_on - 1

    async def register(self, name: str) -> list[int]:
        """Begin a new epoch of the holder in every shard; the epochs, in order of the shards."""
        replies = await self._pulsed(
            [
                ("FCALL", versioned("register"), 2, keys.holder_key(s, name), keys.holders_key(s), name)
                for s in self._shards
            ]
        )
        return [int(reply) for reply in replies]

    async def beat(self, name: str, answered: Sequence[tuple[int, int]]) -> bool:
        """Show that the holder lives; False when any shard has fenced it or has lost a flush of it.

        `answered`, in order of the shards: its epoch, and the last sequence that Redis answered.
        """
        replies = await self._pulsed(
            [
                (
                    "FCALL",
                    versioned("beat"),
                    2,
                    keys.holders_key(s),
                    keys.holder_key(s, name),
                    name,
                    epoch,
                    sequence,
                )
                for s, (epoch, sequence) in zip(self._shards, answered, strict=True)
            ]
        )
        return all(reply == 1 for reply in replies)

    async def fence(self, name: str) -> None:
        """End the holder's epoch in every shard; a second call does nothing."""
        await self._each([fence_command(s, name) for s in self._shards])

    async def admit(
        self, name: str, flushes: Sequence[Flush], timeout_s: float
    ) -> list[Admitted | Fenced | Full]:
        """Apply flushes in one round trip, each as a whole or not at all; an outcome for each, in order.

        `Full`: Redis refused this flush for want of memory. Raises Unavailable also when Redis was
        restarted and no ledger has looked at it yet, and when too few replicas have what was applied:
        the same call then waits for them again.
        """
        bundles = readable(self._pulse, "bundle")
        bundle_max = bundle_format.MESSAGES_MAX if bundles else 1
        commands = [
            admit_wire.admit(name, flush, self._key_ttl_s, bundle_max, texts=self._texts) for flush in flushes
        ]
        confirmed = self._replicas and any(flush.submissions or flush.withdrawn for flush in flushes)
        if confirmed:
            commands.append(wait(self._replicas, min(WAIT_MS, int(timeout_s * 500) + 1)))
        try:
            replies = await self._link.batch(commands, timeout_s=timeout_s)
        except OutOfMemory as e:
            replies = e.replies
        if confirmed:
            confirm(replies.pop(), self._replicas)
        return [_outcome(name, reply) for reply in replies]

    async def fullness(self) -> float:
        """The share of its memory that Redis uses, 0 without a limit; it sets how long keys are kept."""
        fullness = memory_of(await self._link.call("INFO", "memory")).fullness
        self._key_ttl_s = key_ttl_s(fullness)
        return fullness

    @property
    def key_ttl_s(self) -> int:
        """How long an idempotency key first used now is remembered, seconds."""
        return self._key_ttl_s

    async def standing(self) -> Stopped:
        """Whose books no ledger can write now: see the notes in inbox.lua."""
        commands: list[Command] = [("TIME",)]
        commands += [("HMGET", keys.usage_head_key(s), *_NOTES) for s in self._shards]
        (seconds, microseconds), *noted = await self._each(commands)
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        waiting: set[int] = set()
        locked: list[int] = []
        for shard, (waits, leads, books, unclosed) in zip(self._shards, noted, strict=True):
            if _stands(waits, leads, books, now_ms):
                waiting.add(shard)
            locked += _unclosed(unclosed, now_ms)
        return Stopped(frozenset(waiting), frozenset(locked))

    async def inbox(
        self, name: str, positions: Sequence[str], block_ms: int
    ) -> list[tuple[int, str, LedgerAnswer | None]]:
        """Answers of the ledger after `positions` (ids, in order of the shards).

        Waits up to `block_ms` milliseconds for the first one. List of (shard, id of the entry, answer);
        the answer is None when this version cannot read it.
        """
        inboxes = [keys.inbox_key(s, name) for s in self._shards]
        reply = await self._inbox_link.call(
            "XREAD", "COUNT", 1000, "BLOCK", block_ms, "STREAMS", *inboxes, *positions,
            timeout_s=block_ms / 1000 + 5,
        )  # fmt: skip
        arrived: list[tuple[int, str, LedgerAnswer | None]] = []
        for key, entries in reply or ():
            shard = inboxes.index(key)
            for entry_id, fields in entries:
                arrived.append((shard, entry_id.decode(), _answer_in(fields[1])))
        return arrived

    async def _each(self, commands: list[Command]) -> list[Any]:
        """Send all in one write; the replies, in order. Raises Broken for an error reply."""
        return _accepted(await self._link.batch(commands))

    async def _pulsed(self, commands: list[Command]) -> list[Any]:
        """As `_each`, with the pulse."""
        return _accepted(await pulsed(self._link, self._pulse, commands))


async def fence_all(link: RedisLink, names: Sequence[str], shards: int) -> None:
    """Fence these holders in every shard of `link`; a second call does nothing.

    Raises Unavailable when Redis did not do all of it. Some may be fenced then, so call it again.
    """
    replies = await link.batch([fence_command(s, name) for name in names for s in range(shards)])
    refused = [reply for reply in replies if isinstance(reply, ReplyError)]
    if refused:
        raise Unavailable(f"Redis refused {len(refused)} of {len(replies)} steps of a fence: {refused[0]}.")


def _accepted(replies: list[Any]) -> list[Any]:
    """The replies of steps of the protocol. Raises Broken when one is an error."""
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise _refused(reply)
    return replies


def _answer_in(payload: bytes) -> LedgerAnswer | None:
    try:
        return _answer.decode(payload)
    except NO_RECORD:
        return None


def _stands(waits: bytes | None, leads: bytes | None, books: bytes | None, now_ms: int) -> bool:
    """Whether the books of a shard cannot be written, by what ledgers have noted there."""
    # A note that is still to come was made before the clock was set back, and says nothing of now.
    if abs(now_ms - int(waits or 0)) < NOTED_MS:
        return True
    if not leads or not books:
        return False
    term, noted_ms = leads.split(b" ")
    # One of an older version leads without saying so; then the books have a later term.
    return int(noted_ms) <= now_ms - LOST_MS and int(term) >= int(books.split(b" ")[2])


def _unclosed(noted: bytes | None, now_ms: int) -> list[int]:
    """The organisations of a shard whose accounts are locked, by what a ledger has noted there."""
    noted_ms, *organisations = map(int, (noted or b"0").split())
    return organisations if abs(now_ms - noted_ms) < NOTED_MS else []


def _outcome(name: str, reply: Any) -> Admitted | Fenced | Full:
    """The outcome of a flush from the reply of `admit`."""
    if isinstance(reply, ReplyError):
        if reply.code != "OOM":
            raise _refused(reply)
        return Full(str(reply))
    # An answer that was stored has no more than these.
    status, hits, size, *more = reply
    if status == b"unseen":
        raise Unavailable("Redis was restarted, and the ledger has not looked at it yet.")
    if status != b"applied":
        return Fenced(f"The epoch of holder {name} is over.")
    replays = {i: Replay(fingerprint=f, answer=a) for i, f, a in hits}
    if not more or not (more[0] or more[1]):
        return Admitted(size, replays)
    backlogs = list(zip(more[0][::2], more[0][1::2], strict=True))
    levels = [RateLevel(int(o), float(left), float(rate)) for o, left, rate in more[1]]
    return Admitted(size, replays, backlogs, levels)


def _refused(reply: ReplyError) -> Broken:
    return Broken(f"Redis refused a step of the protocol: {reply}")


def key_ttl_s(fullness: float) -> int:
    """How long an idempotency key first used now is remembered, seconds; `fullness` is from 0 to 1."""
    room = min(1.0, max(0.0, (MARK - fullness) / (MARK - _HALF)))
    return int(_KEY_TTL_MIN_S + room * (admit_wire.KEY_TTL_S - _KEY_TTL_MIN_S))


def fence_command(shard: int, name: str) -> Command:
    """The command that fences one holder in one shard; reply: 1 when it did, 0 when there was none."""
    return (
        "FCALL", versioned("fence"), 5, keys.holder_key(shard, name), keys.holders_key(shard),
        keys.usage_key(shard), keys.usage_head_key(shard), keys.inbox_key(shard, name), name,
    )  # fmt: skip
