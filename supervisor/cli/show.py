"""Tables and numbers as the commands print them for people. Pure: facts in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from supervisor.cli.answers import Audit, Status
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
            for name, q in seen.queues.items()
        ),
        frozenset({1, 2, 3, 4, 5}),
    )
    parts: list[RenderableType] = [queues, Text(), *_behind(seen)]
    if seen.processes:
        processes = table(
            ("process", "pid", "state", "since", "restarts", "routes"),
            (
                (
                    f"{p.role} {p.index}",
                    str(p.pid or "-"),
                    p.state,
                    span(max(now_us - p.since_us, 0) // 1000),
                    str(p.restarts),
                    "" if p.routing is None else f"version {p.routing}",
                )
                for p in seen.processes
            ),
            frozenset({1, 3, 4}),
        )
        parts = [Text(f"node {seen.node}"), processes, Text(), *parts]
    return Group(*parts)


def _behind(seen: Status) -> list[RenderableType]:
    """How far ledger, archiver and receipts are behind, and which receipts have no message."""
    behind: list[RenderableType] = [
        table(
            ("not yet", "batches", "oldest"),
            (
                ("booked in PostgreSQL (credit used)", "", span(seen.ledger.lag_ms)),
                (
                    "written to ClickHouse (activity)",
                    number(seen.activity.waiting_entries),
                    span(seen.activity.oldest_ms),
                ),
                (
                    "matched to messages (receipts)",
                    number(seen.receipts.waiting_entries),
                    span(seen.receipts.oldest_ms),
                ),
            ),
            frozenset({1, 2}),
        )
    ]
    if seen.receipts.set_aside or seen.receipts.unmatched:
        behind += [
            Text(),
            Text(
                f"receipts without a message: {number(seen.receipts.set_aside)} looked for,"
                f" {number(seen.receipts.unmatched or 0)} given up in 24 h"
            ),
        ]
    if seen.problems_last_hour:
        behind += [
            Text(),
            Text(
                f"not understood in the last hour: {number(seen.problems_last_hour)}"
                " (see smsengine provider problems)"
            ),
        ]
    return behind


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
        lost = (
            f"Redis lost data: {number(found.uncharged_units)} units were sent and not charged (accepted or"
            " settled in a moment that was lost, or sent again because of it)."
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
