"""What follows from a verdict or the end of validity: charge, retry or refund, never two of them."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.delivery.settlement import (
    DELIVERIES_MAX,
    RetryPauses,
    after_verdict,
    before_sending,
    put_off,
    unroutable,
)
from engine.records import Entry, Message, Verdict, VerdictKind

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
PAUSES = RetryPauses(first_us=SECOND, max_us=60 * SECOND)


def entry(*, attempts: int = 0, expires_at_us: int = NOW + 3600 * SECOND, deliveries: int = 1) -> Entry:
    message = Message(
        id="m",
        organisation_id=7,
        to="+989121234567",
        text="hello",
        sender="Acme",
        encoding="GSM-7",
        segments=3,
        units=9,
        accepted_at_us=NOW - SECOND,
        expires_at_us=expires_at_us,
        attempts=attempts,
        reference="r",
    )
    return Entry(shard=2, queue="normal", entry_id=b"1-0", message=message, deliveries=deliveries)


def verdict(kind: VerdictKind) -> Verdict:
    return Verdict(kind=kind, provider="p", provider_message_id="x", code="42", latency_us=1234)


@pytest.mark.parametrize(
    ("kind", "time_left", "outcome", "event", "unknown"),
    [
        ("accepted", True, "captured", "sent", False),
        ("accepted", False, "captured", "sent", False),
        ("permanent", True, "released", "failed", False),
        ("permanent", False, "released", "failed", False),
        ("temporary", True, "retry", "retrying", False),
        ("temporary", False, "released", "expired", False),
        ("unknown", True, "retry", "retrying", True),
        ("unknown", False, "released", "expired", True),
        ("throttled", True, "retry", "retrying", False),
    ],
)
def test_each_verdict_has_its_outcome(
    kind: VerdictKind, time_left: bool, outcome: str, event: str, unknown: bool
) -> None:
    sent = entry(attempts=1, expires_at_us=NOW + (3600 if time_left else 1) * SECOND)
    settlement = after_verdict(sent, verdict(kind), NOW, PAUSES, Random(1))
    row = settlement.row
    assert row is not None
    assert (settlement.outcome, row.event, row.outcome_unknown) == (outcome, event, unknown)
    assert (row.provider, row.provider_message_id, row.code, row.latency_us) == ("p", "x", "42", 1234)
    assert (row.at_us, row.attempt, row.segments, row.units, row.queue) == (NOW, 2, 3, 9, "normal")
    assert (row.message_id, row.organisation_id, row.reference) == ("m", 7, "r")
    if outcome == "retry":
        assert settlement.message is not None
        assert settlement.message.attempts == 2
        assert row.due_at_us == settlement.due_at_us > NOW
    else:
        assert (settlement.message, settlement.due_at_us, row.due_at_us) == (None, 0, 0)


def test_only_the_attempts_of_a_retried_message_change() -> None:
    sent = entry(attempts=4)
    settlement = after_verdict(sent, verdict("temporary"), NOW, PAUSES, Random(1))
    assert settlement.message is not None
    before, after = (
        {f: getattr(m, f) for f in m.__struct_fields__} for m in (sent.message, settlement.message)
    )
    assert after == before | {"attempts": 5}


@given(
    attempts=st.integers(1, 2000),
    first_us=st.integers(1, 10 * SECOND),
    factor=st.integers(1, 1000),
    seed=st.integers(),
)
def test_a_pause_is_in_the_upper_half_of_the_doubled_first_pause_and_bounded(
    attempts: int, first_us: int, factor: int, seed: int
) -> None:
    pauses = RetryPauses(first_us=first_us, max_us=first_us * factor)
    whole = min(first_us * 2 ** (attempts - 1), first_us * factor)
    assert whole // 2 <= pauses.after_round(attempts, Random(seed)) <= whole


def test_pauses_are_spread_so_that_retries_do_not_come_in_step() -> None:
    rng = Random(3)
    pauses = [PAUSES.after_round(5, rng) for _ in range(1000)]
    assert len(set(pauses)) > 900
    assert min(pauses) < 8.5 * SECOND
    assert max(pauses) > 15.5 * SECOND


def test_a_message_is_sent_only_before_its_validity_ends() -> None:
    assert before_sending(entry(expires_at_us=NOW + 1), NOW) is None
    settlement = before_sending(entry(expires_at_us=NOW, attempts=3), NOW)
    assert settlement is not None
    assert settlement.row is not None
    assert (settlement.outcome, settlement.row.event, settlement.row.attempt) == ("released", "expired", 3)


def test_an_entry_given_out_too_often_is_set_aside_with_its_hold() -> None:
    assert before_sending(entry(deliveries=DELIVERIES_MAX), NOW) is None
    settlement = before_sending(entry(deliveries=DELIVERIES_MAX + 1, expires_at_us=NOW), NOW)
    assert settlement is not None
    assert settlement.row is not None
    assert (settlement.outcome, settlement.row.event) == ("dead", "dead")
    assert settlement.message is not None


def test_what_was_not_begun_is_put_off_as_it_was() -> None:
    unsent = entry(attempts=2)
    settlement = put_off(unsent, NOW + 5)
    assert (settlement.outcome, settlement.due_at_us, settlement.row) == ("retry", NOW + 5, None)
    assert settlement.message == unsent.message


def test_what_no_route_leads_anywhere_is_refunded() -> None:
    settlement = unroutable(entry(), NOW)
    assert settlement.row is not None
    assert (settlement.outcome, settlement.row.event, settlement.row.code) == (
        "released",
        "failed",
        "no_route",
    )


@pytest.mark.parametrize("kind", ["temporary", "throttled", "unknown"])
def test_while_another_provider_is_left_the_message_is_due_at_once_and_remembers_who_failed_it(
    kind: VerdictKind,
) -> None:
    settlement = after_verdict(entry(), verdict(kind), NOW, PAUSES, Random(1), others=True)
    assert settlement.message is not None
    assert (settlement.outcome, settlement.due_at_us) == ("retry", NOW)
    assert (settlement.message.attempts, settlement.message.tried) == (1, ("p",))
    again = msgspec.structs.replace(entry(), message=settlement.message)
    last = after_verdict(again, verdict(kind), NOW, PAUSES, Random(1), others=False)
    assert last.message is not None
    # The round is over: after the pause anybody may try.
    assert last.due_at_us > NOW
    assert (last.message.attempts, last.message.tried) == (2, ())


def test_the_pause_doubles_with_each_round_and_not_with_each_provider() -> None:
    second_of_two = msgspec.structs.replace(entry().message, attempts=1, tried=("other",))
    settlement = after_verdict(
        msgspec.structs.replace(entry(), message=second_of_two), verdict("temporary"), NOW, PAUSES, Random(1)
    )
    assert NOW + SECOND / 2 <= settlement.due_at_us <= NOW + SECOND


def test_a_provider_that_throttles_costs_a_short_pause_however_often() -> None:
    settlement = after_verdict(entry(attempts=20), verdict("throttled"), NOW, PAUSES, Random(1))
    assert NOW + SECOND / 2 <= settlement.due_at_us <= NOW + SECOND


def test_at_most_once_gives_up_what_was_sent_and_never_answered_and_charges_nothing() -> None:
    settlement = after_verdict(
        entry(), verdict("unknown"), NOW, PAUSES, Random(1), others=True, at_most_once=True
    )
    assert settlement.row is not None
    assert (settlement.outcome, settlement.row.event, settlement.row.outcome_unknown) == (
        "released",
        "failed",
        True,
    )
    # Nothing else is given up by it.
    sure = after_verdict(entry(), verdict("temporary"), NOW, PAUSES, Random(1), at_most_once=True)
    assert sure.outcome == "retry"
