"""Tables and numbers as the commands print them for people. Pure: facts in, text out."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from engine.clocks.clock_estimate import NOTABLE_US, difference
from engine.organisations import Drain, Pause
from supervisor.cli.answers import (
    Audit,
    LedgerState,
    Node,
    PausedOrganisation,
    QueueState,
    Status,
    WebhooksState,
)
from supervisor.cli.sending import Totals
from supervisor.cli.show_nodes import nodes_of, scarce_disks

# All commands find these here.
from supervisor.cli.tables import listing as listing
from supervisor.cli.tables import table as table
from supervisor.cli.text import counted as counted
from supervisor.cli.text import number as number
from supervisor.cli.text import span as span

# What to do when the status has gaps.
_LOOK = (
    "what is not known is not lost: smsengine check says which store is away, docs/failover.md what goes on"
    " without it"
)
# Events that wait longer for ClickHouse are told, milliseconds.
_WAITED_MS = 60_000
# So many endpoints that fail are named.
_FAILING_NAMED = 3


def status(seen: Status, now_us: int) -> RenderableType:
    """What `smsengine status` shows at `now_us`, UTC microseconds."""
    queues = table(
        ("queue", "waiting", "in hand", "due later", "set aside", "oldest waits"),
        (
            (name, number(q.waiting), number(q.in_hand), number(q.due), number(q.dead), span(q.oldest_ms))
            for name, q in (seen.queues or {}).items()
        ),
        frozenset({1, 2, 3, 4, 5}),
    )
    parts: list[RenderableType] = [queues, Text()] if seen.queues is not None else []
    parts += _behind(seen)
    if seen.missing:
        parts += [table(("not known", "why"), _by_reason(seen.missing)), Text(), Text(_LOOK)]
    parts = [*nodes_of(seen, now_us), *parts]
    if abs(seen.clock_ahead_ms) > NOTABLE_US // 1000:
        sentence = f"the clock of this node is {difference(seen.clock_ahead_ms * 1000)} that of Redis"
        parts += [Text(), Text(sentence)]
    return Group(*parts)


def _by_reason(missing: Mapping[str, str]) -> list[tuple[str, str]]:
    """(names, reason): those that have one and the same reason in one row."""
    names: dict[str, list[str]] = {}
    for name, why in missing.items():
        names.setdefault(why, []).append(name)
    return [(", ".join(those), why) for why, those in names.items()]


def _behind(seen: Status) -> list[RenderableType]:
    """How far ledger, archiver and receipts are behind, and what else an operator has to know."""
    rows: list[tuple[str, str, str]] = []
    if seen.ledger is not None:
        rows += [("booked in PostgreSQL (credit used)", "", span(seen.ledger.lag_ms))]
    for what, behind in (
        ("written to ClickHouse (activity)", seen.activity),
        ("matched to messages (receipts)", seen.receipts),
    ):
        if behind is not None:
            rows += [(what, number(behind.waiting_entries), span(behind.oldest_ms))]
    if seen.webhooks is not None:
        kept = seen.webhooks
        rows += [("told to organisations (webhooks)", number(kept.waiting), span(kept.oldest_ms))]
    parts: list[RenderableType] = []
    if rows:
        parts += [table(("not yet", "waiting", "oldest"), rows, frozenset({1, 2})), Text()]
    return parts + [part for sentence in sentences(seen) for part in (Text(sentence), Text())]


def sentences(seen: Status) -> list[str]:
    """What an operator has to know beside the numbers, a sentence each: what is wrong, paused or drained."""
    # The nodes are not known while Redis cannot write because this very disk is full.
    found = scarce_disks(
        [Node(name=seen.node, seen="running", disk=seen.disk)] if seen.nodes is None else seen.nodes
    )
    ledger, receipts, memory = seen.ledger, seen.receipts, seen.memory
    if memory is not None and memory.full:
        found.append(
            f"Redis uses {number(memory.used_mb)} of the {number(memory.limit_mb)} MB of its maxmemory, so"
            " new messages are refused with 503 until some is free: raise maxmemory, or see whose messages"
            " wait (smsengine queue show normal)"
        )
    found += _unarchived(seen)
    if ledger is not None and ledger.held_up_by:
        found.append(f"the books are locked in PostgreSQL by {ledger.held_up_by}")
    if ledger is not None and ledger.unbooked_organisations:
        found.append(suspended(ledger.unbooked_organisations, ledger.unbooked_units))
    if ledger is not None:
        found += _lost(ledger)
    if receipts is not None and (receipts.set_aside or receipts.unmatched):
        given_up = "an unknown number" if receipts.unmatched is None else number(receipts.unmatched)
        lost = f"{number(receipts.set_aside)} looked for, {given_up} given up in 24 h"
        found.append(f"receipts without a message: {lost}")
    if seen.webhooks is not None:
        found += _webhooks(seen.webhooks, {} if seen.flow is None else seen.flow.webhooks)
    if seen.problems_last_hour:
        count = number(seen.problems_last_hour)
        found.append(f"not understood in the last hour: {count} (see smsengine provider problems)")
    if seen.paused_providers:
        pauses = seen.provider_pauses or {}
        found.append(f"paused: {', '.join(f'{n}{_because(pauses.get(n))}' for n in seen.paused_providers)}")
    found += [paused_queue(queue, pause) for queue, pause in (seen.paused_queues or {}).items()]
    for queue, drain in (seen.drained_queues or {}).items():
        found.append(drained_queue(queue, drain, (seen.queues or {}).get(queue)))
    if seen.paused_organisations:
        held = sum(queue.paused for queue in (seen.queues or {}).values())
        names = ", ".join(_named(organisation) for organisation in seen.paused_organisations)
        found.append(f"organisations paused, with {counted(held, 'message')} waiting: {names}")
    return found


def _unarchived(seen: Status) -> list[str]:
    """That ClickHouse is away or slow, since when, and how long what waits for it has room."""
    activity, memory = seen.activity, seen.memory
    if activity is None or activity.oldest_ms < _WAITED_MS:
        return []
    found = (
        f"events of {span(activity.oldest_ms)} ago are not in ClickHouse yet: it is away or slow, or no"
        " archiver works (smsengine check)"
    )
    if memory is not None and memory.waiting_mb is not None:
        found += f"; what waits for it takes about {number(memory.waiting_mb)} MB of Redis's memory"
        if memory.lasts_ms and not memory.full:
            lasts = span(memory.lasts_ms)
            found += f", which is full in {lasts} if this goes on: then new messages are refused"
        elif not memory.limit_mb:
            found += ", which has no bound (set maxmemory)"
    return [found]


def _webhooks(seen: WebhooksState, rates: Mapping[str, float]) -> list[str]:
    """How fast organisations are told of events, when they are, and which of them do not take it."""
    found, rate = [], rates.get("delivered", 0.0)
    if rate or rates.get("again", 0.0):
        again = rates.get("again", 0.0)
        found.append(f"webhooks: {rate:.1f} delivered a second, {again:.1f} to be tried again")
    if seen.failed:
        failed = f"{number(seen.failed)} (see smsengine webhook failed)"
        found.append(f"webhooks that failed for good in 24 h: {failed}")
    if seen.failing_endpoints:
        named = "; ".join(
            f"organisation {one.organisation_id} {one.origin} since {span(one.waits_ms)}, last answer"
            f" {one.last_status or one.last_reason or 'none'}"
            for one in seen.failing[:_FAILING_NAMED]
        )
        many = counted(seen.failing_endpoints, "endpoint")
        more = "; ..." if seen.failing_endpoints > _FAILING_NAMED else ""
        found.append(f"webhooks fail at {many}: {named}{more}")
    return found


def drained_queue(queue: str, drain: Drain, left: QueueState | None) -> str:
    """That a queue is drained, since when and why, and what is left of it."""
    reason = f" ({drain.reason})" if drain.reason else ""
    sentence = f"the queue {queue} is drained since {drain.since:%Y-%m-%d %H:%M}{reason}"
    return sentence if left is None else f"{sentence}: {left_in(left)}"


def left_in(queue: QueueState) -> str:
    """What is left of a queue that is drained."""
    if not queue.waiting + queue.in_hand + queue.due:
        return "it is empty"
    counts = (
        (queue.waiting, "waiting"),
        (queue.in_hand, "in hand"),
        (queue.due, "scheduled or to be tried again"),
    )
    return ", ".join(f"{number(count)} {what}" for count, what in counts if count)


def paused_queue(queue: str, pause: Pause | None) -> str:
    """Whether a queue is paused, since when and why."""
    if pause is None:
        return f"the queue {queue} sends"
    return paused(f"the queue {queue}", pause)


def paused(what: str, pause: Pause) -> str:
    """Since when something is paused, and why."""
    return f"{what} is paused since {pause.since:%Y-%m-%d %H:%M}{_because(pause)}"


def _named(organisation: PausedOrganisation) -> str:
    return f"{organisation.id} {organisation.name}{_because(organisation)}"


def _because(paused: Pause | PausedOrganisation | None) -> str:
    """The reason of a pause, behind what is paused."""
    return f" ({paused.reason})" if paused is not None and paused.reason else ""


def _lost(ledger: LedgerState) -> list[str]:
    """What is said of usage that PostgreSQL lost, and of what Redis lost of late."""
    lines = []
    if ledger.shards_to_rebuild:
        shards = counted(ledger.shards_to_rebuild, "shard")
        lines += [
            f"PostgreSQL lost usage of {shards}: it is not charged"
            " (run smsengine books repair --from-activity)"
        ]
    if ledger.uncharged_units:
        lost = uncharged(ledger.uncharged_units, ledger.uncharged_messages)
        lines += [
            f"Redis lost data in the last 7 days: {lost} sent and not charged (see smsengine books show)"
        ]
    return lines


def uncharged(units: int, messages: int) -> str:
    """So many units were, and how many messages when that is known."""
    of = f" ({counted(messages, 'message')})" if messages else ""
    return f"{counted(units, 'unit')}{of} {'was' if units == 1 else 'were'}"


def suspended(organisations: int, units: int) -> str:
    """What is said of usage that waits to be booked: whom it keeps from sending, and what to do."""
    who = f"{counted(organisations, 'organisation')} {'is' if organisations == 1 else 'are'}"
    return f"{who} suspended: usage of {counted(units, 'unit')} is not booked (run smsengine books repair)"


_VERDICTS = {"clean": "clean", "not_clean": "NOT CLEAN", "not_checked": "not checked"}
_CONCLUSIONS = {
    "clean": "Every unit is accounted for.",
    "not_clean": "Units are missing or counted twice: see above.",
    "not_checked": "What could be checked is clean, but not everything could be checked: see above.",
}


def audit(found: Audit) -> RenderableType:
    """What `smsengine audit` shows."""
    checks = table(
        ("check", "", "detail"),
        ((c.name, _VERDICTS.get(c.verdict, c.verdict), c.detail) for c in found.checks),
    )
    parts: list[RenderableType] = [checks, Text()]
    advice = _by_reason({c.name: c.advice for c in found.checks if c.advice})
    if advice:
        parts += [table(("check", "what to do"), advice), Text()]
    if found.totals:
        totals = table(
            ("units", "in all"),
            ((name.replace("_", " "), number(units)) for name, units in found.totals.items()),
            frozenset({1}),
        )
        parts += [totals, Text()]
    if found.uncharged_units:
        lost = uncharged(found.uncharged_units, found.uncharged_messages)
        lost = (
            f"Redis lost data: {lost} sent and not charged (accepted or settled in a moment that was lost, or"
            " sent again because of it)."
        )
        parts += [Text(lost), Text()]
    summed = (
        f"Summed {counted(found.journal_rows, 'row')} of the journal and {number(found.activity_rows)} of the"
        f" activity in {found.seconds:.1f} s."
    )
    return Group(*parts, Text(summed), Text(_CONCLUSIONS.get(found.verdict, found.verdict)))


def totals(sent: Totals, seconds: float) -> str:
    """The line that sums up a run of `smsengine send` over a file."""
    every = sent.accepted + sent.refused + sent.unknown
    rate = f", {number(int(every / seconds))}/s" if seconds >= 0.1 else ""
    unknown = f", {number(sent.unknown)} without an answer" if sent.unknown else ""
    return (
        f"{number(sent.accepted)} accepted, {number(sent.refused)} refused{unknown} "
        f"({counted(sent.segments, 'segment')}, {counted(sent.units, 'unit')}, {seconds:.1f} s{rate})"
    )
