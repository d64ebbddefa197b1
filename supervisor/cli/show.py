"""Tables and numbers as the commands print them for people. Pure: facts in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.clock_estimate import NOTABLE_US, difference
from engine.organisations import Pause
from supervisor.cli.answers import Audit, LedgerState, PausedOrganisation, Process, Status
from supervisor.cli.sending import Totals


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()
) -> Table:
    """A plain table. The columns with their index in `right` are aligned to the right, for numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(columns):
        made.add_column(name, justify="right" if place in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


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
        parts += [table(("not known", "why"), seen.missing.items())]
    if seen.processes:
        processes = table(
            ("process", "pid", "state", "since", "restarts", "routes"),
            (
                (
                    f"{p.role} {p.index}",
                    str(p.pid or "-"),
                    f"{p.state}, degraded" if p.degraded else p.state,
                    span(max(now_us - p.since_us, 0) // 1000),
                    str(p.restarts),
                    "" if p.routing is None else f"version {p.routing}",
                )
                for p in seen.processes
            ),
            frozenset({1, 3, 4}),
        )
        ill = [Text(f"{p.role} {p.index} is degraded: {died(p)}") for p in seen.processes if p.degraded]
        parts = [Text(f"node {seen.node}"), processes, Text(), *ill, *([Text()] if ill else []), *parts]
    if abs(seen.clock_ahead_ms) > NOTABLE_US // 1000:
        sentence = f"the clock of this node is {difference(seen.clock_ahead_ms * 1000)} that of Redis"
        parts += [Text(), Text(sentence)]
    return Group(*parts)


def _behind(seen: Status) -> list[RenderableType]:
    """How far ledger, archiver and receipts are behind, and which receipts have no message."""
    rows: list[tuple[str, str, str]] = []
    if seen.ledger is not None:
        rows += [("booked in PostgreSQL (credit used)", "", span(seen.ledger.lag_ms))]
    for what, behind in (
        ("written to ClickHouse (activity)", seen.activity),
        ("matched to messages (receipts)", seen.receipts),
    ):
        if behind is not None:
            rows += [(what, number(behind.waiting_entries), span(behind.oldest_ms))]
    parts: list[RenderableType] = []
    if rows:
        parts += [table(("not yet", "batches", "oldest"), rows, frozenset({1, 2})), Text()]
    if seen.ledger is not None and seen.ledger.held_up_by:
        parts += [Text(f"the books are locked in PostgreSQL by {seen.ledger.held_up_by}"), Text()]
    if seen.ledger is not None and seen.ledger.unbooked_organisations:
        parts += [Text(suspended(seen.ledger.unbooked_organisations, seen.ledger.unbooked_units)), Text()]
    if seen.ledger is not None:
        parts += [part for line in _lost(seen.ledger) for part in (Text(line), Text())]
    receipts = seen.receipts
    if receipts is not None and (receipts.set_aside or receipts.unmatched):
        given_up = "an unknown number" if receipts.unmatched is None else number(receipts.unmatched)
        lost = f"{number(receipts.set_aside)} looked for, {given_up} given up in 24 h"
        parts += [Text(f"receipts without a message: {lost}"), Text()]
    if seen.problems_last_hour:
        count = number(seen.problems_last_hour)
        parts += [Text(f"not understood in the last hour: {count} (see smsengine provider problems)"), Text()]
    if seen.paused_providers:
        parts += [Text(f"paused: {', '.join(seen.paused_providers)}"), Text()]
    for queue, pause in (seen.paused_queues or {}).items():
        parts += [Text(paused_queue(queue, pause)), Text()]
    if seen.paused_organisations:
        held = sum(queue.paused for queue in (seen.queues or {}).values())
        names = ", ".join(_named(organisation) for organisation in seen.paused_organisations)
        parts += [Text(f"organisations paused, with {number(held)} messages waiting: {names}"), Text()]
    return parts


def paused_queue(queue: str, pause: Pause | None) -> str:
    """Whether a queue is paused, since when and why."""
    if pause is None:
        return f"the queue {queue} sends"
    reason = f" ({pause.reason})" if pause.reason else ""
    return f"the queue {queue} is paused since {pause.since:%Y-%m-%d %H:%M}{reason}"


def _named(organisation: PausedOrganisation) -> str:
    reason = f" ({organisation.reason})" if organisation.reason else ""
    return f"{organisation.id} {organisation.name}{reason}"


def _lost(ledger: LedgerState) -> list[str]:
    """What is said of usage that PostgreSQL lost, and of what Redis lost of late."""
    lines = []
    if ledger.shards_to_rebuild:
        shards = "1 shard" if ledger.shards_to_rebuild == 1 else f"{number(ledger.shards_to_rebuild)} shards"
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
    return f"{number(units)} units{f' ({number(messages)} messages)' if messages else ''} were"


def suspended(organisations: int, units: int) -> str:
    """What is said of usage that waits to be booked: whom it keeps from sending, and what to do."""
    who = "1 organisation is" if organisations == 1 else f"{number(organisations)} organisations are"
    return f"{who} suspended: usage of {number(units)} units is not booked (run smsengine books repair)"


def died(process: Process) -> str:
    """How often in a row processes died in the place of this one, and why the last did."""
    return f"{process.deaths} processes died there in a row. {process.last_words}"


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
    advice = [(c.name, c.advice) for c in found.checks if c.advice]
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
        f"Summed {number(found.journal_rows)} rows of the journal and {number(found.activity_rows)} of the"
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
        f"({number(sent.segments)} segments, {number(sent.units)} units, {seconds:.1f} s{rate})"
    )


def number(count: int) -> str:
    """The number with a comma before each group of three digits."""
    return f"{count:,}"


def span(ms: int) -> str:
    """A length of time in the unit that fits it: 0, 340 ms, 12 s, 5 min, 3 h, 2 d."""
    if ms < 1000:
        return f"{ms} ms" if ms else "0"
    seconds = ms // 1000
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit} {name}"
    return f"{seconds // 86400} d"
