"""The table of events keeps what its theory says."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.lifecycle import EVENTS, STATUSES, Charge, MessageEvent, Status, charge_after, status_after

ENDS: tuple[Status, ...] = (
    "outcome_unknown", "canceled", "expired", "failed", "undelivered", "delivered",
)  # fmt: skip


def status_of(events: list[MessageEvent]) -> Status | None:
    """The status after these events, in this order."""
    status: Status | None = None
    for event in events:
        status = status_after(status, event)
    return status


def test_every_status_can_be_reached() -> None:
    assert {meaning.status for meaning in EVENTS.values()} == set(STATUSES)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("event", EVENTS)
def test_a_status_is_the_further_of_what_was_and_what_the_event_stands_for(
    status: Status, event: MessageEvent
) -> None:
    assert status_after(status, event) == max(status, EVENTS[event].status, key=STATUSES.index)


@given(st.lists(st.sampled_from(tuple(EVENTS)), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_of_events_changes_the_status(events: list[MessageEvent], rng) -> None:  # type: ignore[no-untyped-def]
    again = events + rng.choices(events, k=3)
    rng.shuffle(again)
    assert status_of(again) == status_of(events)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("late", ["scheduled", "accepted", "retrying", "dead", "sent"])
def test_a_late_event_never_overwrites_a_receipt_or_an_end(end: Status, late: MessageEvent) -> None:
    assert status_after(end, late) == end


def test_a_receipt_before_the_response_counts_at_once() -> None:
    assert status_of(["accepted", "delivered", "sent"]) == "delivered"


def test_the_carriers_word_stands_above_giving_up() -> None:
    assert status_of(["accepted", "retrying", "failed", "delivered"]) == "delivered"
    assert status_of(["accepted", "outcome_unknown", "undelivered"]) == "undelivered"
    assert status_of(["accepted", "outcome_unknown_released", "delivered"]) == "delivered"


def test_a_message_set_aside_is_not_at_its_end() -> None:
    assert status_of(["accepted", "dead"]) == "accepted"
    assert status_of(["accepted", "dead", "sent"]) == "sent"


def test_a_scheduled_message_that_was_tried_is_no_longer_scheduled() -> None:
    assert status_of(["scheduled"]) == "scheduled"
    assert status_of(["scheduled", "retrying"]) == "accepted"


@pytest.mark.parametrize("event", EVENTS)
def test_a_settled_charge_is_final(event: MessageEvent) -> None:
    assert charge_after("captured", event) == "captured"
    assert charge_after("released", event) == "released"


def test_only_settlements_end_a_held_charge() -> None:
    ends = {event: charge_after("held", event) for event in EVENTS if charge_after("held", event) != "held"}
    assert ends == {
        "sent": "captured",
        "failed": "released",
        "expired": "released",
        "canceled": "released",
        "outcome_unknown": "captured",
        "outcome_unknown_released": "released",
    }


@pytest.mark.parametrize("receipt", ["delivered", "undelivered"])
def test_a_receipt_moves_no_money(receipt: MessageEvent) -> None:
    assert all(charge_after(charge, receipt) == charge for charge in get_args(Charge))
