"""The laws of the books, checked on one consistent cut: what the audit and the tests ask.

1. conservation  top-ups = available + granted + held + captured, for every organisation
2. quotas        the holders' quotas add up to `granted`
3. journal       the journal's movements add up to the accounts
4. held          the books' `held` at their position, plus the usage behind it, is the
                 running sum that Redis keeps in the same atomic steps
5. queues        that sum is the units of the messages that wait or are in hand
6. activity      what the recorded events say was held, captured and released is what the
                 books say

The cut of a shard is one instant in Redis. Laws 4 and 6 bring the books forward to that
instant by the usage entries that they have not applied yet, and the activity in ClickHouse
by the rows that were not archived yet.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from engine.credit.ledger_records import UsageEntry

_flat = msgspec.msgpack.Decoder(list[int])

_HELD = ("accepted", "scheduled")
_CAPTURED = ("sent",)
_RELEASED = ("failed", "expired")

_SHOWN = 5


class Account(msgspec.Struct, frozen=True):
    """One organisation in the books."""

    organisation_id: int
    shard: int
    topped_up: int
    available: int
    granted: int
    held: int
    captured: int
    # Sum of the holders' quotas.
    quotas: int
    # Sums of the journal by movement.
    journal: dict[str, int]


class ShardCut(msgspec.Struct, frozen=True):
    """One instant of a shard in Redis."""

    shard: int
    held: int
    usage: list[UsageEntry]
    # Messages in the queue, due and dead-letter streams.
    waiting: int
    # The sum of their units; None when there were too many to count at one instant.
    recount: int | None


class Cut(msgspec.Struct, frozen=True):
    accounts: list[Account]
    shards: list[ShardCut]
    # {organisation: {event: units}} up to the cut; None when ClickHouse is behind or away.
    activity: dict[int, dict[str, int]] | None
    # Why there is no activity.
    activity_missing: str = ""
    # Shards whose Redis was lost once: what was lost with it is in the books, with the
    # cause, but not in the recorded events.
    lost: set[int] = set()


class Check(msgspec.Struct, frozen=True):
    name: str
    # None: could not be checked.
    clean: bool | None
    detail: str


class Audit(msgspec.Struct, frozen=True):
    clean: bool
    checks: list[Check]
    totals: dict[str, int]


def audit(cut: Cut) -> Audit:
    checks = [
        _conservation(cut),
        _quotas(cut),
        _journal(cut),
        _held(cut),
        _queues(cut),
        _activity(cut),
    ]
    totals = {
        part: sum(getattr(a, part) for a in cut.accounts)
        for part in ("topped_up", "available", "granted", "held", "captured")
    }
    return Audit(clean=all(c.clean is not False for c in checks), checks=checks, totals=totals)


def _check(name: str, law: str, count: int, wrong: list[str]) -> Check:
    if not wrong:
        return Check(name, True, f"{law}: holds for {count}.")
    more = f" (and {len(wrong) - _SHOWN} more)" if len(wrong) > _SHOWN else ""
    return Check(name, False, f"{law}: broken for {'; '.join(wrong[:_SHOWN])}{more}.")


def _conservation(cut: Cut) -> Check:
    wrong = [
        f"organisation {a.organisation_id} by {a.topped_up - total:+d} units"
        for a in cut.accounts
        if a.topped_up != (total := a.available + a.granted + a.held + a.captured)
        or min(a.available, a.granted, a.held, a.captured) < 0
    ]
    return _check("conservation", "top-ups = available + granted + held + captured", len(cut.accounts), wrong)


def _quotas(cut: Cut) -> Check:
    wrong = [
        f"organisation {a.organisation_id} by {a.granted - a.quotas:+d} units"
        for a in cut.accounts
        if a.granted != a.quotas
    ]
    return _check("quotas", "granted = sum of the holders' quotas", len(cut.accounts), wrong)


def _journal(cut: Cut) -> Check:
    wrong = []
    for a in cut.accounts:
        j = Counter(a.journal)
        told = (
            j["top-up"],
            j["top-up"] - j["grant"] + j["return"] + j["fence"] + j["release"],
            j["grant"] - j["hold"] - j["return"] - j["fence"],
            j["hold"] + j["reopen"] - j["capture"] - j["release"],
            j["capture"] - j["reopen"],
        )
        if told != (a.topped_up, a.available, a.granted, a.held, a.captured):
            wrong.append(f"organisation {a.organisation_id}")
    return _check("journal", "accounts = sums of the journal", len(cut.accounts), wrong)


def _held(cut: Cut) -> Check:
    books: Counter[int] = Counter()
    for a in cut.accounts:
        books[a.shard] += a.held
    wrong = []
    for s in cut.shards:
        told = books[s.shard] + sum(h - c - r for h, c, r in _behind(s.usage).values())
        if told != s.held:
            wrong.append(f"shard {s.shard} by {told - s.held:+d} units")
    return _check("held", "held in the books, brought forward = held in Redis", len(cut.shards), wrong)


def _queues(cut: Cut) -> Check:
    law = "held in Redis = units of the messages waiting or in hand"
    uncounted = [s for s in cut.shards if s.recount is None]
    wrong = [
        f"shard {s.shard} by {s.held - s.recount:+d} units"
        for s in cut.shards
        if s.recount is not None and s.held != s.recount
    ]
    if uncounted and not wrong:
        waiting = sum(s.waiting for s in uncounted)
        return Check(
            "queues",
            None,
            f"{law}: {len(uncounted)} shards have too many messages ({waiting}) to count at one instant.",
        )
    return _check("queues", law, len(cut.shards), wrong)


def _activity(cut: Cut) -> Check:
    law = "units held, captured and released by recorded events = by the books"
    if cut.activity is None:
        return Check("activity", None, f"{law}: {cut.activity_missing}")
    behind: dict[int, tuple[int, int, int]] = {}
    for s in cut.shards:
        behind.update(_behind(s.usage))
    wrong = []
    comparable = [a for a in cut.accounts if a.shard not in cut.lost]
    for a in comparable:
        more = behind.get(a.organisation_id, (0, 0, 0))
        books = (
            a.journal.get("hold", 0) + more[0],
            a.captured + more[1],
            a.journal.get("release", 0) + more[2],
        )
        events = Counter(cut.activity.get(a.organisation_id, {}))
        told = tuple(sum(events[e] for e in group) for group in (_HELD, _CAPTURED, _RELEASED))
        if books != told:
            wrong.append(f"organisation {a.organisation_id} (books {books}, events {told})")
    check = _check("activity", law, len(comparable), wrong)
    if cut.lost and check.clean:
        shards = ", ".join(map(str, sorted(cut.lost)))
        return Check(
            "activity", True, f"{check.detail} Not comparable where Redis was lost once: shards {shards}."
        )
    return check


def _behind(usage: list[UsageEntry]) -> dict[int, tuple[int, int, int]]:
    """{organisation: (held, captured, released)} of entries the books have not applied."""
    sums: dict[int, list[int]] = {}
    for entry in usage:
        if entry.kind == "usage":
            flat = _flat.decode(entry.data)
            for o, held in zip(flat[::2], flat[1::2], strict=True):
                sums.setdefault(o, [0, 0, 0])[0] += held
        elif entry.kind == "settle":
            flat = _flat.decode(entry.data)
            for o, captured, released in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
                of = sums.setdefault(o, [0, 0, 0])
                of[1] += captured
                of[2] += released
    return {o: (h, c, r) for o, (h, c, r) in sums.items()}
