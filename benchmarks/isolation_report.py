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


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All waits before a provider with one throughput, segments a second; 0: it has none."""

    throughput: float
    nodes: int
    answers: str
    # Messages that waited when the first and when the last probe began and ended, and how fast they went.
    backlog: int
    left: int
    sent_per_s: int
    waits: list[Wait]

    def ratio(self, provider: str, who: str) -> float:
        """The p99 beside the backlog as a multiple of that alone."""
        by = {w.when: w.p99_ms for w in self.waits if w.provider == provider and w.who == who}
        return by["beside"] / max(by["alone"], 0.01)


def write_report(found: Sequence[Found], folder: Path) -> None:
    """Write isolation.md and isolation.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "isolation.md").write_text(_page(found), encoding="utf-8")
    (folder / "isolation.svg").write_text(_plot(found), encoding="utf-8")


def _page(found: Sequence[Found]) -> str:
    kept = sum(one.ratio(one.answers, who) <= _RATIO for one in found for who in _WHO)
    lines = [
        "# Isolation",
        "",
        f"`python -m benchmarks.isolation`; {machine()}, {found[0].nodes} node, with the load and the SMSC",
        "on the same machine. One organisation has a backlog of normal. Express, and other organisations",
        "that send a normal message now and then, are timed alone and beside it: milliseconds from the POST",
        "to the SMSC's answer.",
        "",
        f"With a provider that takes {found[0].answers} to answer, {kept} of {len(found) * len(_WHO)} p99",
        f"beside the backlog are within {_RATIO} times those alone.",
        "",
        "![p99 alone and beside a backlog](isolation.svg)",
    ]
    for one in found:
        lines += [
            "",
            f"## {_limit(one).capitalize()}",
            "",
            f"{one.backlog:,} messages waited at the begin and {one.left:,} at the end; {one.sent_per_s:,} a",
            "second were sent.",
            "",
            "| provider answers | who | messages | p50 alone | beside | p99 alone | beside | ratio of p99 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for provider in dict.fromkeys(wait.provider for wait in one.waits):
            lines += [_row(one, provider, who) for who in _WHO]
    return "\n".join(lines) + "\n"


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
