"""The command `admit` of functions/queue. No I/O.

Submissions without an Idempotency-Key are all let in, so those that follow each other go as one *portion*:
their messages in bundles, their units by organisation, their rows in one array. A submission with a key is a
portion of its own, because it counts only when its key is new.
"""

from __future__ import annotations

from engine import bundle_format
from engine import redis_keys as keys
from engine.credit.flush import Flush
from engine.records import Submission
from engine.stores.redis._portion import Portion
from engine.stores.redis.link import Argument, Command
from engine.stores.redis.lua_libraries import versioned

# How long an idempotency key is remembered at most, seconds.
KEY_TTL_S = 86400
_ADMIT = versioned("admit")
_REPORT = versioned("report")


def admit(
    name: str,
    flush: Flush,
    key_ttl_s: int = KEY_TTL_S,
    bundle_max: int = bundle_format.MESSAGES_MAX,
    *,
    texts: bool = False,
) -> Command:
    """Apply a flush of the holder `name`; the reply is that of `admit` in functions/queue. `bundle_max`: how
    many messages may be written in one entry. `texts`: whether the texts are recorded."""
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
    portions: list[Portion] = []
    open_to_more = False
    for index, (_, submission) in enumerate(flush.submissions):
        has_key = submission.idempotency_key != ""
        if has_key:
            touched.append(keys.idempotency_key(s, submission.organisation_id, submission.idempotency_key))
        if has_key or not open_to_more:
            portions.append(Portion(index, _kept(submission) if has_key else b"", texts))
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
    """What is kept under the key of a submission: see `first_use` in functions/queue."""
    return b"%c%b%b" % (len(submission.fingerprint), submission.fingerprint, submission.answer)
