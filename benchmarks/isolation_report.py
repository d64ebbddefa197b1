"""What `benchmarks.isolation` found, and its report: a table for each provider, and bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.chart import Panel, svg
from benchmarks.results import machine

# So many times as long as alone is what isolation promises at most.
_RATIO = 1.2
_WHO = ("express", "other shards", "same shard")


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """How long one kind of message took from its POST to the provider's answer."""

    # "alone" or "beside" the backlog.
    when: str
    # How long the provider takes to answer.
    provider: str
    # "express", or of normal: organisations in "other shards", or in the "same shard" as the backlog.
    who: str
    messages: int
    p50_ms: float
    p99_ms: float


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """How long messages took that waited, from the provider's answer to the first of them on, seconds.

    Infinite where the probe had ended before.
    """

    provider: str
    # Those that waited, and those of them that were answered while it was measured.
    messages: int
    sent: int
    # Of the first message of each organisation: that of half of them, and of the last.
    first_p50_s: float
    first_last_s: float
    p50_s: float
    last_s: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All waits before a provider with one throughput, segments a second; 0: it has none."""

    throughput: float
    nodes: int
    # How many have the backlog.
    heavy: int = 1
    answers: str
    # How many send little, 0: as many as are usual; and how many messages of each of them waited.
    organisations: int
    waiting: int
    # Messages that waited when the first and when the last probe began and ended, and how fast they went.
    backlog: int
    left: int
    sent_per_s: int
    # CPU of Redis for each message that was sent meanwhile, microseconds.
    redis_us: float
    waits: list[Wait]
    drained: list[Drained]

    def ratio(self, provider: str, who: str) -> float:
        """The p99 beside the backlog as a multiple of that alone."""
        by = {w.when: w.p99_ms for w in self.waits if w.provider == provider and w.who == who}
        return by["beside"] / max(by["alone"], 0.01)


def report_name(found: Found) -> str:
    """Of the report's files, without their ends."""
    name = "isolation"
    if found.nodes > 1:
        name += f"-{found.nodes}-nodes"
    if found.heavy > 1:
        name += f"-{found.heavy}-heavy"
    if found.organisations:
        name += f"-{found.organisations}-organisations"
    return name + (f"-{found.waiting}-waiting" if found.waiting else "")


def write_report(found: Sequence[Found], folder: Path) -> None:
    """Write the page and its plot."""
    folder.mkdir(parents=True, exist_ok=True)
    name = report_name(found[0])
    (folder / f"{name}.md").write_text(_page(found), encoding="utf-8")
    (folder / f"{name}.svg").write_text(_plot(found), encoding="utf-8")


def _page(found: Sequence[Found]) -> str:
    first = found[0]
    kept = sum(one.ratio(one.answers, who) <= _RATIO for one in found for who in _WHO)
    lines = [
        "# Isolation",
        "",
        f"`{_command(first)}`; {machine()}, {_nodes(first)}, with the load",
        f"and the SMSC on the same machine. {_heavy(first)} of normal. Express, and other",
        "organisations that send a normal message now and then, are timed alone and beside it: milliseconds",
        "from the POST to the SMSC's answer.",
        "",
        f"With a provider that takes {first.answers} to answer, {kept} of {len(found) * len(_WHO)} p99",
        f"beside the backlog are within {_RATIO} times those alone.",
        "",
        f"![p99 alone and beside a backlog]({report_name(first)}.svg)",
    ]
    for one in found:
        lines += [
            "",
            f"## {_limit(one).capitalize()}",
            "",
            f"{one.backlog:,} messages waited at the begin and {one.left:,} at the end; {one.sent_per_s:,} a",
            f"second were sent, with {one.redis_us:g} µs of CPU of Redis each.",
            "",
            "| provider answers | who | messages | p50 alone | beside | p99 alone | beside | ratio of p99 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for provider in dict.fromkeys(wait.provider for wait in one.waits):
            lines += [_row(one, provider, who) for who in _WHO]
        if one.drained:
            lines += _drained(one)
    return "\n".join(lines) + "\n"


def _command(one: Found) -> str:
    options = {"nodes": one.nodes if one.nodes > 1 else 0, "heavy": one.heavy if one.heavy > 1 else 0}
    options["organisations"] = one.organisations
    options["waiting"] = one.waiting
    given = "".join(f" --{name} {value}" for name, value in options.items() if value)
    return f"python -m benchmarks.isolation{given}"


def _heavy(one: Found) -> str:
    return (
        "One organisation has a backlog" if one.heavy == 1 else f"{one.heavy:,} organisations have backlogs"
    )


def _nodes(one: Found) -> str:
    return "1 node" if one.nodes == 1 else f"{one.nodes} nodes"


def _drained(one: Found) -> list[str]:
    """What waited of many organisations."""
    lines = [
        "",
        f"{one.organisations:,} organisations had {one.waiting} messages waiting each beside the backlog.",
        "Those above, who had nothing waiting, sent meanwhile. Seconds from the first answer on; a dash",
        "where it was not measured for so long:",
        "",
        "| provider answers | waited | sent | first of each organisation, p50 | last | all, p50 | last |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in one.drained:
        times = (found.first_p50_s, found.first_last_s, found.p50_s, found.last_s)
        cells = " | ".join("-" if seconds == float("inf") else f"{seconds:.1f}" for seconds in times)
        lines.append(f"| {found.provider} | {found.messages:,} | {found.sent:,} | {cells} |")
    return lines


def _row(one: Found, provider: str, who: str) -> str:
    alone, beside = (
        next(w for w in one.waits if (w.provider, w.who, w.when) == (provider, who, when))
        for when in ("alone", "beside")
    )
    name = who if who == "express" else f"normal, {who}"
    return (
        f"| {provider} | {name} | {beside.messages} | {alone.p50_ms:.1f} | {beside.p50_ms:.1f} "
        f"| {alone.p99_ms:.1f} | {beside.p99_ms:.1f} | {one.ratio(provider, who):.2f} |"
    )


def _plot(found: Sequence[Found]) -> str:
    panels = []
    for one in found:
        for provider in dict.fromkeys(wait.provider for wait in one.waits):
            ordered = sorted(
                (w for w in one.waits if w.provider == provider), key=lambda w: (_WHO.index(w.who), w.when)
            )
            bars = {f"{w.who}, {w.when}": [w.p99_ms] for w in ordered}
            panels.append(Panel(f"p99, ms: {_limit(one)}, answers: {provider}", dots=bars))
    return svg(panels)


def _limit(one: Found) -> str:
    return f"a provider of {one.throughput:g} segments/s" if one.throughput else "a provider without a limit"
