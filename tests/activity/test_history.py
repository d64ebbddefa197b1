"""Rows of one message become one truthful view, whatever way they come."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from engine.activity.history import describe, rfc3339
from engine.activity.row import row_of
from engine.records import ActivityRow, Event, Message

T0 = 1_795_335_960_000_000  # 2026-11-22T08:26:00Z


def row(event: Event, after_ms: int = 0, **values: Any) -> ActivityRow:
    return ActivityRow(
        **{
            "at_us": T0 + after_ms * 1000,
            "organisation_id": 7,
            "message_id": "019aaaaa-0000-7000-8000-000000000001",
            "accepted_at_us": T0,
            "event": event,
            "queue": "express",
            "to": "+989120000001",
            "sender": "ACME",
            "encoding": "GSM-7",
            "segments": 2,
            "units": 6,
            "reference": "order-1",
            **values,
        }
    )


ACCEPTED = row("accepted", expires_at_us=T0 + 300_000_000)
RETRYING = row("retrying", 40, attempt=1, provider="one", code="503", latency_us=38_500, outcome_unknown=True)
SENT = row("sent", 900, attempt=2, provider="two", provider_message_id="A1", code="0", latency_us=21_250)


def test_a_sent_message_shows_its_whole_history() -> None:
    view = describe([ACCEPTED, RETRYING, SENT])
    assert msgspec.to_builtins(view) == {
        "id": "019aaaaa-0000-7000-8000-000000000001",
        "status": "sent",
        "charge": "captured",
        "queue": "express",
        "to": "+989120000001",
        "from": "ACME",
        "encoding": "GSM-7",
        "segments": 2,
        "price": 3,
        "units": 6,
        "reference": "order-1",
        "accepted_at": "2026-11-22T08:26:00.000000Z",
        "expires_at": "2026-11-22T08:31:00.000000Z",
        "provider": "two",
        "attempts": 2,
        "outcome_unknown": True,
        "events": [
            {
                "at": "2026-11-22T08:26:00.000000Z",
                "event": "accepted",
                "status": "accepted",
                "provider": "",
                "provider_message_id": "",
                "code": "",
                "attempt": 0,
                "segment": 0,
                "latency_ms": 0.0,
            },
            {
                "at": "2026-11-22T08:26:00.040000Z",
                "event": "retrying",
                "status": "accepted",
                "provider": "one",
                "provider_message_id": "",
                "code": "503",
                "attempt": 1,
                "segment": 0,
                "latency_ms": 38.5,
            },
            {
                "at": "2026-11-22T08:26:00.900000Z",
                "event": "sent",
                "status": "sent",
                "provider": "two",
                "provider_message_id": "A1",
                "code": "0",
                "attempt": 2,
                "segment": 0,
                "latency_ms": 21.25,
            },
        ],
        "history_complete": True,
        "text": None,
    }


def test_rows_seen_twice_and_out_of_order_change_nothing() -> None:
    rows = [ACCEPTED, RETRYING, SENT]
    mixed = rows * 3
    random.Random(5).shuffle(mixed)
    assert describe(mixed) == describe(rows)


def test_a_message_just_accepted_is_held() -> None:
    view = describe([ACCEPTED])
    assert (view.status, view.charge, view.attempts, view.provider) == ("accepted", "held", 0, "")
    assert not view.outcome_unknown


@pytest.mark.parametrize(
    ("event", "status"), [("failed", "failed"), ("expired", "expired"), ("dead", "accepted")]
)
def test_an_end_without_a_provider_gives_the_units_back_but_a_dead_letter_keeps_them(
    event: Event, status: str
) -> None:
    view = describe([ACCEPTED, row(event, 500, attempt=3)])
    assert (view.status, view.charge) == (status, "held" if event == "dead" else "released")


def test_the_provider_shown_is_the_one_that_took_it() -> None:
    later = row("retrying", 2000, attempt=3, provider="three")
    assert describe([ACCEPTED, SENT, later]).provider == "two"
    assert describe([ACCEPTED, RETRYING]).provider == "one"


def test_a_history_without_its_beginning_still_has_a_status() -> None:
    view = describe([SENT])
    assert (view.status, view.charge, view.expires_at) == ("sent", "captured", None)
    assert view.accepted_at == "2026-11-22T08:26:00.000000Z"


def test_a_clock_that_runs_behind_does_not_take_the_status_back() -> None:
    early = row("sent", -50, attempt=1, provider="one")
    assert describe([ACCEPTED, early]).status == "sent"


def test_receipts_move_the_status_on_and_show_the_carriers_own_codes() -> None:
    told = {"attempt": 2, "provider": "two", "provider_message_id": "A1,A2"}
    one = row("receipt", 1900, segment=2, code="DELIVRD 000", **told)
    both = row("delivered", 1900, code="DELIVRD 000", **told)
    view = describe([ACCEPTED, SENT, one, both])
    assert (view.status, view.charge, view.provider) == ("delivered", "captured", "two")
    shown = [(e.event, e.status, e.code, e.segment) for e in view.events[-2:]]
    assert shown == [
        ("delivered", "delivered", "DELIVRD 000", 0),
        ("receipt", "delivered", "DELIVRD 000", 2),
    ]
    assert all(e.latency_ms == 0 for e in view.events[-2:])
    assert describe([ACCEPTED, SENT, one]).status == "sent"
    lost = row("undelivered", 1900, code="UNDELIV 069", **told)
    assert describe([ACCEPTED, SENT, lost]).status == "undelivered"


def test_two_segments_that_arrive_in_the_same_instant_are_two_events() -> None:
    receipts = [row("receipt", 1900, attempt=2, provider="two", segment=n, code="0") for n in (1, 2)]
    assert [e.segment for e in describe([ACCEPTED, SENT, *receipts, *receipts]).events[2:]] == [1, 2]


def test_a_message_sent_again_after_its_receipt_shows_who_delivered_it_and_what_it_cost() -> None:
    again = row("retrying", 2000, attempt=2, provider="two", provider_message_id="A1", code="UNDELIV")
    second = row("sent", 2100, attempt=3, provider="three", units=0)
    arrived = row("delivered", 3000, attempt=2, provider="two")
    view = describe([ACCEPTED, SENT, again, second])
    assert (view.status, view.provider, view.attempts, view.units) == ("sent", "three", 3, 6)
    assert describe([SENT, again, second, arrived]).provider == "two"


def test_nothing_known_cannot_be_described() -> None:
    with pytest.raises(ValueError, match="without rows"):
        describe([])


def test_times_have_six_decimals_and_end_in_z() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert rfc3339(T0 + 1) == "2026-11-22T08:26:00.000001Z"


@pytest.mark.parametrize(
    ("event", "charge"), [("outcome_unknown", "captured"), ("outcome_unknown_released", "released")]
)
@pytest.mark.parametrize("receipt", ["delivered", "undelivered"])
def test_a_message_given_up_with_an_unknown_outcome_says_who_pays_and_a_receipt_still_decides(
    event: Event, charge: str, receipt: Event
) -> None:
    end = row(event, 60, attempt=3, provider="one", outcome_unknown=True)
    view = describe([ACCEPTED, RETRYING, end])
    assert (view.status, view.charge, view.attempts, view.outcome_unknown) == (
        "outcome_unknown", charge, 3, True,
    )  # fmt: skip
    later = describe([row(receipt, 70, attempt=1, provider="one"), end, RETRYING, ACCEPTED])
    assert (later.status, later.charge) == (receipt, charge)


def test_an_event_of_a_newer_version_is_shown_and_changes_nothing() -> None:
    newer: Any = "seen_by_the_recipient"
    for rows in ([ACCEPTED, row(newer, 20)], [ACCEPTED, SENT, row(newer, 1000)]):
        without, view = describe(rows[:-1]), describe(rows)
        assert (view.status, view.charge) == (without.status, without.charge)
        assert view.events[-1].event == newer


def test_no_event_is_before_the_acceptance_of_its_message() -> None:
    accepted = ACCEPTED
    early = row_of(
        Message(
            id=accepted.message_id, organisation_id=7, to=accepted.to, text="x", sender="ACME",
            encoding="GSM-7", segments=2, units=6, accepted_at_us=T0, expires_at_us=T0 + 1,
        ),
        accepted.message_id, "express", "sent", T0 - 900, attempt=1,
    )  # fmt: skip
    view = describe([early, accepted])
    assert [event.event for event in view.events] == ["accepted", "sent"]
