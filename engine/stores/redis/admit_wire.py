"""The command `admit` of queue.lua. No I/O.

Submissions without an Idempotency-Key are all let in, so those that follow each other go as one *portion*:
their messages in bundles, their units by organisation, their rows in one array. A submission with a key is a
portion of its own, because it counts only when its key is new.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine import bundle_format, message_format
from engine import redis_keys as keys
from engine.activity.row import acceptance_octets
from engine.credit.flush import Flush
from engine.records import QUEUES, Queue, Submission
from engine.stores.redis.link import Argument, Command
from engine.stores.redis.lua_libraries import versioned

# How long an idempotency key is remembered at most, seconds.
KEY_TTL_S = 86400
_ADMIT = versioned("admit")
_REPORT = versioned("report")
_QUEUES: dict[Queue, bytes] = {"express": b"e", "normal": b"n"}

_encode = msgspec.msgpack.Encoder().encode


def admit(
    name: str,
    flush: Flush,
    key_ttl_s: int = KEY_TTL_S,
    bundle_max: int = bundle_format.MESSAGES_MAX,
    *,
    texts: bool = False,
) -> Command:
    """Apply a flush of the holder `name`; the reply is that of `admit` in queue.lua. `bundle_max`: how many
    messages may be written in one entry. `texts`: whether the texts are recorded."""
    s = flush.shard
    touched: list[Argument] = [
        keys.holder_key(s, name),
        *keys.line_keys(s, "express"),
        *keys.line_keys(s, "normal"),
        keys.due_key(s, "express"),
        keys.due_key(s, "normal"),
        keys.activity_key(s),
        keys.usage_key(s),
        keys.usage_head_key(s),
        keys.held_key(s),
        keys.held_by_key(s),
        keys.generation_key(s),
        keys.limits_key(s),
    ]
    portions: list[_Portion] = []
    open_to_more = False
    for index, (_, submission) in enumerate(flush.submissions):
        has_key = submission.idempotency_key != ""
        if has_key:
            touched.append(keys.idempotency_key(s, submission.organisation_id, submission.idempotency_key))
        if has_key or not open_to_more:
            portions.append(_Portion(index, _kept(submission) if has_key else b"", texts=texts))
        open_to_more = not has_key
        portions[-1].add(submission)
    arguments: list[Argument] = [
        name, flush.epoch, flush.sequence, key_ttl_s, len(flush.submissions), len(flush.notes), bundle_max,
        len(portions),
    ]  # fmt: skip
    for portion in portions:
        arguments += portion.arguments()
    for note in flush.notes:
        arguments += (note.kind, note.data)
    arguments += _drawn(flush)
    # Both are the same function, but at `maxmemory` Redis runs only `report`.
    step = _ADMIT if flush.submissions else _REPORT
    return ("FCALL", step, len(touched), *touched, *arguments)


def _drawn(flush: Flush) -> list[Argument]:
    """Of each organisation that has a rate: itself, the rate, how many messages of it there are."""
    messages: dict[tuple[int, float], int] = {}
    for _, submission in flush.submissions:
        if submission.rate_max:
            of = (submission.organisation_id, submission.rate_max)
            messages[of] = messages.get(of, 0) + len(submission.messages)
    found: list[Argument] = [len(messages)] if messages else []
    for (organisation_id, rate_max), count in messages.items():
        found += (organisation_id, repr(rate_max), count)
    return found


def _kept(submission: Submission) -> bytes:
    """What is kept under the key of a submission: see `first_use` in queue.lua."""
    return b"%c%b%b" % (len(submission.fingerprint), submission.fingerprint, submission.answer)


class _Portion:
    """What is let in together or not at all."""

    def __init__(self, index: int, kept: bytes, *, texts: bool) -> None:
        self._index = index
        self._kept = kept
        self._texts = texts
        self._units: dict[int, int] = {}
        self._rows: list[bytes] = []
        self._pieces: list[Argument] = []
        self._dues: list[Argument] = []
        self._begun = {queue: _Piece(queue) for queue in QUEUES}

    def add(self, submission: Submission) -> None:
        organisation_id = submission.organisation_id
        self._units[organisation_id] = self._units.get(organisation_id, 0) + submission.units
        name = str(organisation_id)
        for addressed in submission.messages:
            message = addressed.message
            self._rows.append(acceptance_octets(addressed, texts=self._texts))
            payload = message_format.packed(message)
            if addressed.due_at_us:
                self._dues += (_QUEUES[addressed.queue], addressed.due_at_us, payload)
                continue
            piece = self._begun[addressed.queue]
            if not piece.has_room(payload):
                self._pieces += piece.arguments()
                piece = self._begun[addressed.queue] = _Piece(addressed.queue)
            piece.add(name, message.segments, payload)

    def arguments(self) -> list[Argument]:
        for piece in self._begun.values():
            if piece.records:
                self._pieces += piece.arguments()
        return [
            self._index,
            self._kept,
            _encode([value for pair in self._units.items() for value in pair]),
            len(self._rows),
            b"".join(self._rows),
            len(self._pieces) // 4,
            len(self._dues) // 3,
            *self._pieces,
            *self._dues,
        ]


class _Piece:
    """Messages of one queue that fit into one bundle."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.records: list[bytes] = []
        self._octets = 0
        # An organisation, how many of the messages are its own, the next one, and so on.
        self._index: list[Any] = []

    def has_room(self, payload: bytes) -> bool:
        return not self.records or (
            len(self.records) < bundle_format.MESSAGES_MAX
            and self._octets + len(payload) <= bundle_format.OCTETS_MAX
        )

    def add(self, organisation: str, segments: int, payload: bytes) -> None:
        self.records.append(bundle_format.record(segments, payload))
        self._octets += len(payload)
        if self._index and self._index[-2] == organisation:
            self._index[-1] += 1
        else:
            self._index += (organisation, 1)

    def arguments(self) -> tuple[Argument, Argument, Argument, Argument]:
        return _QUEUES[self._queue], len(self.records), _encode(self._index), b"".join(self.records)
