"""The laws of the books, judged on one consistent cut, for the audit and the tests.

1. conservation  top-ups = available + granted + held + captured, for every organisation
2. quotas        the quotas of the holders add up to `granted`
3. journal       the double entries of the journal add up to the accounts
4. held          `held` in the books at their position, plus the usage after it, is the
                 running sum that Redis keeps in the same atomic steps
5. queues        that sum is the units of the messages that wait or are in hand
6. activity      the recorded events and the books agree on the units held, captured and released
7. checkpoints   the sums of earlier audits, on which this one builds, are as they were written
8. unbooked      no usage waits to be booked

Usage that waits to be booked (`engine.credit.movements`) breaks law 8 alone: laws 4 and 6 count it as if
it were in the books.

The cut of a shard is one instant in Redis. Laws 4 and 6 bring the books forward to that
instant by the usage entries that they have not applied yet. Law 6 adds to the activity in
ClickHouse the rows that were not archived yet.

Verdicts: `not_clean`, some law is broken; else `not_checked`, some could not be checked; else `clean`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from engine.credit.law_texts import LAWS, Law
from engine.credit.ledger_records import UsageEntry
from engine.lifecycle import MessageEvent, events_that
from engine.written_numbers import plural

Verdict = Literal["clean", "not_clean", "not_checked"]

_flat = msgspec.msgpack.Decoder(list[int])
# So many breaches of a law are shown.
_SHOWN = 5


class Units(NamedTuple):
    """Units that were held, captured and released."""

    held: int = 0
    captured: int = 0
    released: int = 0


NO_UNITS = Units()
# The recorded events that count for each, by the table of events.
EVENTS_BY_CHARGE: tuple[tuple[MessageEvent, ...], ...] = (
    events_that("holds"),
    events_that("captures"),
    events_that("releases"),
)


class JournalSums(NamedTuple):
    """The sums of one organisation's journal, units."""

    topped_up: int = 0
    # The units in each place: all that were put there less all that were taken from it.
    available: int = 0
    granted: int = 0
    held: int = 0
    captured: int = 0
    # Units of the movements `hold` and `release`.
    holds: int = 0
    releases: int = 0


class Account(msgspec.Struct, frozen=True):
    """One organisation in the books, units."""

    organisation_id: int
    shard: int
    topped_up: int
    available: int
    granted: int
    held: int
    captured: int
    # The sum of the holders' quotas.
    quotas: int
    journal: JournalSums
    # How many rows of its journal came from the usage of another shard.
    strays: int = 0
    # The last row of its journal as text, for whoever looks into a breach.
    last_movement: str = ""
    # Units in the recorded events before the last checkpoint.
    recorded: Units = NO_UNITS
    # By how much the books stay ahead of the events because Redis lost data.
    gap: Units = NO_UNITS


class ShardCut(msgspec.Struct, frozen=True):
    """One instant of a shard in Redis."""

    shard: int
    held: int
    # Entries that the books have not applied.
    usage: list[UsageEntry]
    # How many messages wait, are due, or are dead letters.
    waiting: int
    # The sum of their units; None when they are too many to count at one instant.
    recount: int | None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one law."""

    name: Law
    verdict: Verdict
    # The law as a formula.
    law: str
    # What it was checked for, "organisations" or "shards"; for how many of them; how many break it.
    of: str
    checked: int
    broken: int
    # What was found, or why it could not be checked.
    detail: str
    # What an operator should do; "" when it is clean.
    advice: str


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an audit."""

    verdict: Verdict
    clean: bool
    checks: list[Check]
    # Units of all organisations by place; empty when the books could not be read.
    totals: dict[str, int]
    # Whether everything was summed, without the checkpoints.
    full: bool = False
    # How many rows of the journal and of the activity were summed; those before checkpoints are not.
    journal_rows: int = 0
    activity_rows: int = 0
    # How many shards got a checkpoint.
    closed_shards: int = 0
    # Recorded as sent and never charged, because Redis lost data: units of all organisations.
    uncharged_units: int = 0
    # How many messages that were, as far as audits could count them.
    uncharged_messages: int = 0
    # How long it took.
    seconds: float = 0.0


class _Tally:
    """The findings of one law so far."""

    def __init__(self, name: Law) -> None:
        self.name = name
        self.checked = 0
        self.broken = 0
        self.shown: list[str] = []
        # {(why not, what to do): shards in which it could not be checked}; [] means all shards.
        self.missing: dict[tuple[str, str], list[int]] = {}

    def breach(self, sentence: str) -> None:
        self.broken += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(sentence)

    def check(self) -> Check:
        law, of, advice = LAWS[self.name]
        parts = []
        if self.broken:
            more = f" (and {self.broken - _SHOWN} more)" if self.broken > _SHOWN else ""
            parts.append(f"Broken for {self.broken} of {self.checked} {of}: {'; '.join(self.shown)}{more}.")
        elif self.checked or not self.missing:
            counted = of.removesuffix("s") if self.checked == 1 else of
            parts.append(f"Holds for {self.checked} {counted}.")
        for (why, _), shards in self.missing.items():
            where = f" in shards {_ranges(shards)}" if shards else ""
            parts.append(f"Not checked{where}: {why}")
        verdict: Verdict = "not_clean" if self.broken else "not_checked" if self.missing else "clean"
        dos = [advice] if self.broken else list(dict.fromkeys(do for _, do in self.missing))
        return Check(
            name=self.name, verdict=verdict, law=law, of=of, checked=self.checked, broken=self.broken,
            detail=" ".join(parts), advice=" ".join(dos),
        )  # fmt: skip


def _units(difference: int) -> str:
    return f"{difference:+d} {plural('unit', difference)}"


class Laws:
    """Judges a cut that comes in pieces: of each shard the accounts, in any number of pieces, and then
    its instant in Redis.

    It keeps only sums, so that its memory does not grow with the number of organisations.
    """

    def __init__(self) -> None:
        self._of: dict[Law, _Tally] = {name: _Tally(name) for name in LAWS}
        self._totals = dict.fromkeys(("topped_up", "available", "granted", "held", "captured"), 0)
        # Units held in the books, by shard.
        self._held: dict[int, int] = {}
        self._broken_in: set[int] = set()
        self._books_read = False

    def not_checked(self, laws: Iterable[Law], why: str, advice: str, shard: int | None = None) -> None:
        """Note that laws could not be checked in `shard`; None: in any. `why` and `advice` are sentences."""
        for name in laws:
            shards = self._of[name].missing.setdefault((why, advice), [])
            if shard is not None:
                shards.append(shard)

    def whys(self) -> list[str]:
        """Why laws could not be checked, each sentence once."""
        return list(dict.fromkeys(why for tally in self._of.values() for why, _ in tally.missing))

    def shard(self, shard: int, organisations: int, units: Mapping[str, int], *, with_events: bool) -> None:
        """Begin a shard: how many organisations it has, and the units of all of them by place.

        `accounts` then judges those that may break a law; for the others the caller vouches.
        `with_events`: law 6 can be judged.
        """
        self._books_read = True
        for place in self._totals:
            self._totals[place] += units[place]
        self._held[shard] = units["held"]
        for name in (
            "conservation",
            "quotas",
            "journal",
            "unbooked",
            *(("activity",) if with_events else ()),
        ):
            self._of[name].checked += organisations

    def accounts(
        self,
        accounts: Sequence[Account],
        events: Mapping[int, Units] | None,
        behind: Mapping[int, Units],
    ) -> None:
        """Judge laws 1, 2, 3 and 6 for organisations of the shard that has begun.

        `events`: by organisation, the units of events recorded after the last checkpoint; None when
        they cannot be compared. `behind`: by organisation, the units of usage that the books have not
        applied.
        """
        for a in accounts:
            self._books(a)
            if events is not None:
                self._events(a, events.get(a.organisation_id, NO_UNITS), behind)

    def strangers(self, shard: int, organisations: Iterable[int]) -> None:
        """Note organisations of a shard that have recorded events and no account: a breach of law 6."""
        for organisation_id in organisations:
            self._broken_in.add(shard)
            self._of["activity"].breach(f"organisation {organisation_id} has events but no account")

    def unbooked(self, shard: int, units: Mapping[int, Units]) -> None:
        """Judge law 8: `units` by organisation of a shard that wait to be booked. After `accounts`."""
        for organisation_id, u in units.items():
            self._held[shard] = self._held.get(shard, 0) + u.held - u.captured - u.released
            self._broken_in.add(shard)
            self._of["unbooked"].breach(
                f"organisation {organisation_id} by {u.held} {plural('unit', u.held)} held,"
                f" {u.captured} captured and {u.released} released"
            )

    def instant(self, cut: ShardCut, *, with_books: bool) -> None:
        """Judge laws 4 and 5, after all accounts of the shard; without the books law 5 alone.

        Law 5 is left to `queues` when there is no recount.
        """
        shard = cut.shard
        if with_books:
            expected = self._held.get(shard, 0) + sum(
                h - c - r for h, c, r in units_of_usage(cut.usage).values()
            )
            self._of["held"].checked += 1
            if expected != cut.held:
                self._of["held"].breach(f"shard {shard} by {_units(expected - cut.held)}")
                self._broken_in.add(shard)
        if cut.recount is not None:
            self.queues(shard, cut.held, cut.recount)

    def queues(self, shard: int, held: int, units: int) -> None:
        """Judge law 5 at one instant: what Redis says that the messages of a shard hold, and their units."""
        self._of["queues"].checked += 1
        if held != units:
            self._of["queues"].breach(f"shard {shard} by {_units(held - units)}")

    def checkpoint(self, shard: int, sound: bool) -> None:
        """Judge law 7 for a shard that has a checkpoint: `sound` says whether it is as it was written."""
        self._of["checkpoints"].checked += 1
        if not sound:
            self._of["checkpoints"].breach(f"shard {shard}")

    def holds_in(self, shard: int) -> bool:
        """Whether no law was found broken in the shard so far.

        Laws 5 and 7 do not count, because they say nothing about the past of the books.
        """
        return shard not in self._broken_in

    def result(self, **facts: int | float | bool) -> Audit:
        """The result; `facts` are the fields of `Audit` after `totals`."""
        checks = [tally.check() for tally in self._of.values()]
        verdicts = {c.verdict for c in checks}
        verdict: Verdict = "clean"
        if verdicts != {"clean"}:
            verdict = "not_clean" if "not_clean" in verdicts else "not_checked"
        totals = self._totals if self._books_read else {}
        return msgspec.structs.replace(
            Audit(verdict=verdict, clean=verdict == "clean", checks=checks, totals=totals), **facts
        )

    def _books(self, a: Account) -> None:
        total = a.available + a.granted + a.held + a.captured
        if a.topped_up != total or min(a.available, a.granted, a.held, a.captured) < 0:
            self._breach("conservation", a, f"by {_units(a.topped_up - total)}")
        if a.granted != a.quotas:
            self._breach("quotas", a, f"by {_units(a.granted - a.quotas)}")
        if a.journal[:5] != (a.topped_up, a.available, a.granted, a.held, a.captured) or a.strays:
            last = f"; its last row is {a.last_movement}" if a.last_movement else ""
            stray = f"; {a.strays} {plural('row', a.strays)} came from another shard" if a.strays else ""
            off = [
                f"{name} by {getattr(a, name) - getattr(a.journal, name):+d}"
                for name in ("topped_up", "available", "granted", "held", "captured")
                if getattr(a, name) != getattr(a.journal, name)
            ]
            self._breach("journal", a, f"({', '.join(off)}{stray}{last})")

    def _events(self, a: Account, events: Units, behind: Mapping[int, Units]) -> None:
        more = behind.get(a.organisation_id, NO_UNITS)
        ahead = gap_of(a, events, more)
        if ahead != a.gap:
            off = ", ".join(
                f"{name} by {one - other:+d}"
                for name, one, other in zip(Units._fields, ahead, a.gap, strict=True)
                if one != other
            )
            self._breach("activity", a, f"(the books are ahead: {off} units)")

    def _breach(self, law: Law, a: Account, what: str) -> None:
        self._broken_in.add(a.shard)
        self._of[law].breach(f"organisation {a.organisation_id} {what}")


def gap_of(a: Account, events: Units, more: Units) -> Units:
    """By how much the books are ahead of all recorded events.

    `more` is usage that the books have not applied, `events` those recorded after the last checkpoint.
    """
    return Units(
        a.journal.holds + more.held - a.recorded.held - events.held,
        a.captured + more.captured - a.recorded.captured - events.captured,
        a.journal.releases + more.released - a.recorded.released - events.released,
    )


def units_of_usage(usage: Iterable[UsageEntry]) -> dict[int, Units]:
    """{organisation: units} of usage entries; requests, returns and fences have none."""
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
    return {o: Units(*of) for o, of in sums.items()}


def units_by_event(event: str, units: int) -> Units:
    """`units` of a recorded event under what became of them; none for other events."""
    return Units(*(units if event in events else 0 for events in EVENTS_BY_CHARGE))


def _ranges(shards: Sequence[int]) -> str:
    """Shards as text, such as "0 to 3, 7"."""
    runs: list[list[int]] = []
    for shard in sorted(shards):
        if runs and shard == runs[-1][1] + 1:
            runs[-1][1] = shard
        else:
            runs.append([shard, shard])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
