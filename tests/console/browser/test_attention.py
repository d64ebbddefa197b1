"""What the live page says of an engine whose state is given, and how charts write their axes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.console.browser.visitor import Visitor


def texts_of(visitor: Visitor, status: dict[str, Any]) -> list[tuple[str, str | None]]:
    """(sentence, where it leads) of all that the page asks an operator to look at."""
    found = visitor.page.evaluate(
        "async (status) => (await import('/console/assets/attention.js')).attention(status)", status
    )
    return [(one["text"].replace("\u00a0", " "), one["href"]) for one in found]


def test_webhooks_that_are_not_taken_are_named(visitor: Visitor) -> None:
    failing = {"organisation_id": 7, "origin": "https://example.com:443", "waits_ms": 96_000}
    webhooks = {"failing_endpoints": 1, "failing": [failing]}
    assert texts_of(visitor, {"webhooks": webhooks}) == [
        (
            "Webhooks fail at 1 endpoint: organisation 7 https://example.com:443 since 96 s.",
            "/console/webhooks?organisation=7",
        )
    ]
    assert texts_of(visitor, {"webhooks": {**webhooks, "failing_endpoints": 3}})[0][0].endswith("and others.")
    assert texts_of(visitor, {"webhooks": {"failing_endpoints": 0, "failing": []}}) == []


def test_a_clickhouse_that_takes_nothing_is_told_with_the_room_that_is_left(visitor: Visitor) -> None:
    activity = {"oldest_ms": 2_820_000}
    memory = {"used_mb": 300, "limit_mb": 4096, "full": False, "waiting_mb": 280, "lasts_ms": 37_000_000}
    away = "Events of 47 min ago are not in ClickHouse yet: it is away or slow, or no archiver works."
    taken = f"{away} What waits for it takes about 280 MB of Redis's memory"
    until = ", which is full in 10 h if this goes on: then new messages are refused."
    assert texts_of(visitor, {"activity": activity, "memory": memory}) == [(taken + until, None)]
    unbound = {**memory, "limit_mb": 0, "lasts_ms": None}
    assert texts_of(visitor, {"activity": activity, "memory": unbound}) == [
        (f"{taken}, which has no bound.", None)
    ]
    assert texts_of(visitor, {"activity": activity}) == [(away, None)]
    assert texts_of(visitor, {"activity": {"oldest_ms": 59_999}, "memory": memory}) == []


@pytest.mark.parametrize(("free", "named"), [(511, True), (512, False)])
def test_a_disk_that_is_nearly_full_is_named(visitor: Visitor, free: int, named: bool) -> None:
    disk = {"place": "/data", "free_mb": free, "total_mb": 20_000, "low_below_mb": 512}
    node = {"name": "a", "seen": "running", "processes": [], "disk": disk}
    sentence = "The disk of /data on a has 511 MB free, of 20,000 MB: make room."
    assert texts_of(visitor, {"nodes": [node]}) == ([(sentence, None)] if named else [])


@pytest.mark.parametrize(
    ("steps", "writer"), [("WHOLE_STEPS", "short"), ("RATE_STEPS", "rate"), ("SPAN_STEPS", "span")]
)
def test_no_two_values_of_an_axis_are_written_alike(visitor: Visitor, steps: str, writer: str) -> None:
    axes = visitor.page.evaluate(
        """async ([steps, writer]) => {
            const all = await import('/console/assets/format.js');
            return all[steps].map((step) => [0, 1, 2, 3, 4, 5].map((count) => all[writer](count * step)));
        }""",
        [steps, writer],
    )
    assert [axis for axis in axes if len(set(axis)) < len(axis)] == []
