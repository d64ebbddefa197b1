"""The holder's side of the shards in Redis: functions `register`, `admit`, `beat`, `fence`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine import shards as keys
from engine.activity.row import row_of
from engine.credit.flush import Flush
from engine.credit.memory_mark import MARK
from engine.credit.records import LedgerAnswer
from engine.errors import Broken, Fenced, Full, Unavailable
from engine.records import ActivityRow, Addressed, Replay, Submission
from engine.stores.redis.link import Argument, Command, RedisLink
from engine.stores.redis.memory import memory_of
from engine.stores.redis.wire import OutOfMemory, ReplyError

_encode = msgspec.msgpack.Encoder().encode
_answer = msgspec.msgpack.Decoder(LedgerAnswer)

# How long an idempotency key is remembered, seconds: the first while at most half of Redis' memory is
# used, then less and less, down to the second when so much is used that nothing is admitted.
_KEY_TTL_S = 86400
_KEY_TTL_MIN_S = 3600
_HALF = 0.5


class RedisAdmission:
    """AdmissionStore on two links: one for commands, one that waits for the inbox."""

    def __init__(self, link: RedisLink, inbox_link: RedisLink, shards: int) -> None:
        self._link = link
        self._inbox_link = inbox_link
        self._shards = range(shards)
        self._key_ttl_s = _KEY_TTL_S

    async def register(self, name: str) -> list[int]:
        replies = await self._each(
            [
                ("FCALL", "register", 2, keys.holder_key(s, name), keys.holders_key(s), name)
                for s in self._shards
            ]
        )
        return [int(reply) for reply in replies]

    async def beat(self, name: str, answered: Sequence[tuple[int, int]]) -> bool:
        replies = await self._each(
            [
                ("FCALL", "beat", 2, keys.holders_key(s), keys.holder_key(s, name), name, epoch, sequence)
                for s, (epoch, sequence) in zip(self._shards, answered, strict=True)
            ]
        )
        return all(reply == 1 for reply in replies)

    async def fence(self, name: str) -> None:
        await self._each([fence_command(s, name) for s in self._shards])

    async def admit(self, name: str, flushes: Sequence[Flush]) -> list[dict[int, Replay] | Fenced | Full]:
        commands = [_admit_command(name, flush, self._key_ttl_s) for flush in flushes]
        try:
            replies = await self._link.batch(commands)
        except OutOfMemory as e:
            replies = e.replies
        outcomes: list[dict[int, Replay] | Fenced | Full] = []
        for reply in replies:
            if isinstance(reply, ReplyError):
                if reply.code != "OOM":
                    raise _refused(reply)
                outcomes.append(Full(str(reply)))
                continue
            status, hits = reply
            if status == b"unseen":
                raise Unavailable("Redis was restarted, and the ledger has not looked at it yet.")
            if status != b"applied":
                outcomes.append(Fenced(f"The epoch of holder {name} is over."))
            else:
                outcomes.append({i: Replay(fingerprint=f, answer=a) for i, f, a in hits})
        return outcomes

    async def fullness(self) -> float:
        fullness = memory_of(await self._link.call("INFO", "memory")).fullness
        self._key_ttl_s = key_ttl_s(fullness)
        return fullness

    async def inbox(
        self, name: str, positions: Sequence[str], block_ms: int
    ) -> list[tuple[int, str, LedgerAnswer]]:
        inboxes = [keys.inbox_key(s, name) for s in self._shards]
        reply = await self._inbox_link.call(
            "XREAD", "COUNT", 1000, "BLOCK", block_ms, "STREAMS", *inboxes, *positions,
            timeout_s=block_ms / 1000 + 5,
        )  # fmt: skip
        arrived: list[tuple[int, str, LedgerAnswer]] = []
        for key, entries in reply or ():
            shard = inboxes.index(key)
            for entry_id, fields in entries:
                arrived.append((shard, entry_id.decode(), _answer.decode(fields[1])))
        return arrived

    async def _each(self, commands: list[Command]) -> list[Any]:
        """One write for all; an error reply means that Redis is not what we were started with."""
        replies = await self._link.batch(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise _refused(reply)
        return replies


async def fence_all(link: RedisLink, names: Sequence[str], shards: int) -> None:
    """Fence these holders in every shard; again does nothing.

    Raises Unavailable when Redis did not do all of it: some may be fenced, so call it again.
    """
    replies = await link.batch([fence_command(s, name) for name in names for s in range(shards)])
    refused = [reply for reply in replies if isinstance(reply, ReplyError)]
    if refused:
        raise Unavailable(f"Redis refused {len(refused)} of {len(replies)} steps of a fence: {refused[0]}.")


def _refused(reply: ReplyError) -> Broken:
    return Broken(f"Redis refused a step of the protocol: {reply}")


def key_ttl_s(fullness: float) -> int:
    """How long an idempotency key that is first used now is remembered, seconds."""
    room = min(1.0, max(0.0, (MARK - fullness) / (MARK - _HALF)))
    return int(_KEY_TTL_MIN_S + room * (_KEY_TTL_S - _KEY_TTL_MIN_S))


def fence_command(shard: int, name: str) -> Command:
    """Fence one holder in one shard."""
    return (
        "FCALL", "fence", 4, keys.holder_key(shard, name), keys.holders_key(shard),
        keys.usage_key(shard), keys.inbox_key(shard, name), name,
    )  # fmt: skip


def _admit_command(name: str, flush: Flush, key_ttl_s: int = _KEY_TTL_S) -> Command:
    s = flush.shard
    touched: list[Argument] = [
        keys.holder_key(s, name),
        keys.queue_key(s, "express"),
        keys.queue_key(s, "normal"),
        keys.due_key(s, "express"),
        keys.due_key(s, "normal"),
        keys.activity_key(s),
        keys.usage_key(s),
        keys.held_key(s),
        keys.generation_key(s),
    ]
    arguments: list[Argument] = [
        name, flush.epoch, flush.sequence, key_ttl_s, len(flush.submissions), len(flush.notes),
    ]  # fmt: skip
    fixed = len(touched)
    for _, submission in flush.submissions:
        index = 0
        if submission.idempotency_key:
            touched.append(keys.idempotency_key(s, submission.organisation_id, submission.idempotency_key))
            index = len(touched) - fixed
        _add_submission(arguments, submission, index)
    for note in flush.notes:
        arguments += (note.kind, note.data)
    # The same step; but at `maxmemory` Redis carries out the second one only.
    step = "admit" if flush.submissions else "report"
    return ("FCALL", step, len(touched), *touched, *arguments)


def _add_submission(arguments: list[Argument], submission: Submission, key_index: int) -> None:
    messages = submission.messages
    arguments += (
        submission.organisation_id,
        submission.units,
        key_index,
        submission.fingerprint,
        submission.answer,
        len(messages),
        b"".join([_encode(_row(addressed)) for addressed in messages]),
        len(messages),
    )
    for addressed in messages:
        arguments += (
            b"e" if addressed.queue == "express" else b"n",
            addressed.due_at_us or b"",
            _encode(addressed.message),
        )


def _row(addressed: Addressed) -> ActivityRow:
    message = addressed.message
    return row_of(
        message,
        message.id,
        addressed.queue,
        "scheduled" if addressed.due_at_us else "accepted",
        message.accepted_at_us,
        due_at_us=addressed.due_at_us,
        expires_at_us=message.expires_at_us,
    )
