"""What receipts mean and what they add to a message's history."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.activity.records import AttemptRecord
from engine.lifecycle import status_after
from engine.receipts.match import NOTHING, Known, Match, known_of, learnt, match, rows_for, sent_again
from engine.receipts.records import Receipt
from engine.records import Message

T0 = 1_795_335_960_000_000
STATES = ("delivered", "undelivered", "pending")


def attempt(**values: Any) -> AttemptRecord:
    return AttemptRecord(
        **{
            "event": "sent",
            "message_id": "019aaaaa-0000-7000-8000-000000000001",
            "attempt": 1,
            "code": "0",
            "at_us": T0,
            "provider": "one",
            "provider_message_id": "00AB12",
            "organisation_id": 7,
            "accepted_at_us": T0 - 5,
            "queue": "express",
            "to": "+989121234567",
            "sender": "ACME",
            "encoding": "GSM-7",
            "segments": 2,
            "units": 6,
            "reference": "order-1",
            **values,
        }
    )


def receipt(state: str = "delivered", **values: Any) -> Receipt:
    fields = {
        "provider": "one",
        "provider_message_id": "ab12",
        "state": state,
        "code": {"delivered": "DELIVRD 000", "undelivered": "UNDELIV 069", "pending": "ENROUTE"}[state],
        "at_us": T0 + 5_000_000,
    }
    return Receipt(**fields | values)


def message_of(found: Any) -> tuple[str, int]:
    assert isinstance(found, Match), found
    return found.attempt.message_id, found.segment


# -- which message


def test_the_message_is_the_one_whose_id_it_is_whatever_the_case_and_zeros() -> None:
    assert match(receipt(), [attempt()], "same", settled=False) == Match(attempt=attempt(), segment=1)
    assert match(receipt(provider_message_id="0000AB12"), [attempt()], "auto", settled=False)
    assert match(receipt(provider_message_id="ab13"), [attempt()], "auto", settled=True) == "unknown"
    assert match(receipt(provider="two"), [attempt()], "auto", settled=True) == "unknown"


def test_the_segment_is_the_one_whose_id_it_is() -> None:
    three = attempt(provider_message_id="A1,A2,0A3")
    assert message_of(match(receipt(provider_message_id="a3"), [three], "auto", settled=True))[1] == 3


def test_an_id_as_it_is_written_comes_before_what_it_is_in_another_base() -> None:
    as_written = attempt(message_id="w", provider_message_id="1234")
    in_hex = attempt(message_id="h", provider_message_id="4d2")
    told = receipt(provider_message_id="1234", to="989121234567")
    assert message_of(match(told, [in_hex, as_written], "auto", settled=True))[0] == "w"
    assert message_of(match(told, [in_hex], "auto", settled=True))[0] == "h"


def test_the_number_tells_a_message_from_another_with_the_id_in_another_base() -> None:
    as_written = attempt(message_id="w", provider_message_id="1234", to="+4915100000000")
    in_hex = attempt(message_id="h", provider_message_id="4d2")
    told = receipt(provider_message_id="1234", to="09121234567")
    assert message_of(match(told, [as_written, in_hex], "auto", settled=False))[0] == "h"
    assert match(told, [as_written], "auto", settled=True) == "recipient"


def test_without_a_number_another_base_is_only_believed_when_the_id_itself_must_be_there() -> None:
    in_hex = attempt(provider_message_id="4d2")
    told = receipt(provider_message_id="1234")
    assert match(told, [in_hex], "auto", settled=False) == "unknown"
    assert message_of(match(told, [in_hex], "auto", settled=True))
    assert message_of(match(told, [in_hex], "hex-to-decimal", settled=False))


def test_an_operator_who_names_the_base_is_believed_whatever_number_the_carrier_writes() -> None:
    told = receipt(to="4477000000")
    assert message_of(match(told, [attempt()], "same", settled=False))
    assert match(told, [attempt()], "auto", settled=True) == "recipient"


def test_a_carrier_that_does_not_change_the_addresses_over_is_understood() -> None:
    mine = attempt(sender="+12025550100")
    told = receipt(to="12025550100")
    assert message_of(match(told, [mine], "auto", settled=True))[0] == mine.message_id
    # The sender is no evidence for an id in another base.
    other_base = attempt(sender="12025550100", provider_message_id="4d2")
    told = receipt(provider_message_id="1234", to="12025550100")
    assert match(told, [other_base], "auto", settled=True) == "recipient"


def test_several_messages_with_one_id_are_not_guessed_among() -> None:
    two = [attempt(message_id=name) for name in ("a", "b")]
    assert match(receipt(), two, "same", settled=True) == "ambiguous"
    assert match(receipt(), two, "auto", settled=True) == "ambiguous"
    both = [
        attempt(message_id="d", provider_message_id="1234"),
        attempt(message_id="h", provider_message_id="10"),
    ]
    assert match(receipt(provider_message_id="10"), both, "auto", settled=True) != "ambiguous"
    bases = [
        attempt(message_id="d", provider_message_id="16"),
        attempt(message_id="h", provider_message_id="a"),
    ]
    assert match(receipt(provider_message_id="10"), bases, "auto", settled=True) == "ambiguous"


@pytest.mark.parametrize("how", ["same", "auto"])
def test_the_number_tells_several_messages_with_one_id_apart_and_then_the_latest_counts(how: Any) -> None:
    others = [attempt(message_id="other", to="+4915100000000", at_us=T0 + 9)]
    mine = [attempt(message_id="old"), attempt(message_id="new", at_us=T0 + 1)]
    told = receipt(to="989121234567")
    assert message_of(match(told, others + mine, how, settled=True))[0] == "new"


def test_our_own_id_finds_the_message_when_the_carriers_does_not() -> None:
    ours = attempt().message_id
    told = receipt(provider_message_id="", message_id=ours)
    assert message_of(match(told, [attempt()], "auto", settled=True)) == (ours, 0)
    told = receipt(provider_message_id="zz", message_id=ours.upper())
    assert message_of(match(told, [attempt()], "auto", settled=False)) == (ours, 0)
    two = attempt(provider_message_id="A1,A2")
    told = receipt(provider_message_id="a2", message_id=ours)
    assert message_of(match(told, [two], "auto", settled=False)) == (ours, 2)


def test_a_message_that_a_receipt_names_is_the_one_whatever_else_it_says() -> None:
    mine, other = attempt(to="+4915100000000"), attempt(message_id="other", at_us=T0 + 9)
    told = receipt(message_id=mine.message_id, to="989121234567")
    assert message_of(match(told, [other, mine], "auto", settled=True)) == (mine.message_id, 1)
    assert match(told, [other], "auto", settled=True) == "unknown"


def test_of_the_attempts_under_our_own_id_the_one_that_was_accepted_counts() -> None:
    unknown = attempt(event="retrying", attempt=1, provider_message_id="")
    sent = attempt(attempt=2)
    later = attempt(event="retrying", attempt=3, provider_message_id="")
    told = receipt(provider_message_id="", message_id=sent.message_id)
    found = match(told, [unknown, sent, later], "auto", settled=True)
    assert isinstance(found, Match)
    assert found.attempt.attempt == 2
    found = match(told, [unknown, later], "auto", settled=True)
    assert isinstance(found, Match)
    assert found.attempt.attempt == 3


# -- what it adds


def events(known: Known, *told: tuple[int, str], sent: AttemptRecord | None = None) -> list[tuple[str, int]]:
    rows = rows_for(sent or attempt(), known, [(segment, receipt(state)) for segment, state in told])
    return [(row.event, row.segment) for row in rows]


THREE = attempt(provider_message_id="A1,A2,A3", segments=3)


def test_a_row_is_the_messages_own_with_the_carriers_code_and_time() -> None:
    [row] = rows_for(attempt(), NOTHING, [(1, receipt())])
    sent = msgspec.to_builtins(attempt())
    assert isinstance(sent, list)
    for name in ("organisation_id", "message_id", "accepted_at_us", "queue", "to", "sender", "encoding",
                 "segments", "units", "attempt", "provider", "provider_message_id", "reference"):  # fmt: skip
        assert getattr(row, name) == getattr(attempt(), name)
    assert (row.event, row.code, row.at_us, row.latency_us, row.segment) == (
        "delivered", "DELIVRD 000", T0 + 5_000_000, 0, 0,
    )  # fmt: skip


def test_each_segment_that_arrives_is_told_and_the_last_one_delivers_the_message() -> None:
    assert events(NOTHING, (2, "delivered"), (1, "delivered"), (3, "delivered"), sent=THREE) == [
        ("receipt", 2), ("receipt", 1), ("delivered", 0),
    ]  # fmt: skip
    assert events(Known(arrived=frozenset((1, 2))), (3, "delivered"), sent=THREE) == [("delivered", 0)]


def test_the_first_segment_that_does_not_arrive_makes_the_message_undelivered_once() -> None:
    told = [(1, "delivered"), (2, "undelivered"), (3, "undelivered")]
    assert events(NOTHING, *told, sent=THREE) == [("receipt", 1), ("undelivered", 0)]


def test_what_is_known_already_is_not_recorded_again() -> None:
    for state in STATES:
        assert events(Known(delivered=True), (1, state)) == []
    assert events(Known(undelivered=True), (1, "undelivered"), (1, "pending")) == []
    assert events(Known(arrived=frozenset((1,))), (1, "delivered"), (1, "undelivered"), sent=THREE) == []
    assert events(Known(codes=frozenset(("ENROUTE",))), (1, "pending")) == []
    assert events(NOTHING, (1, "pending"), (1, "pending"), (1, "delivered"), (1, "delivered")) == [
        ("receipt", 0), ("delivered", 0),
    ]  # fmt: skip


def test_a_carrier_may_correct_undelivered_to_delivered_and_not_back() -> None:
    assert events(NOTHING, (1, "undelivered"), (1, "delivered"), (1, "undelivered")) == [
        ("undelivered", 0), ("delivered", 0),
    ]  # fmt: skip
    told = [(2, "undelivered"), (1, "delivered"), (3, "delivered"), (2, "delivered")]
    assert events(NOTHING, *told, sent=THREE) == [
        ("undelivered", 0), ("receipt", 1), ("receipt", 3), ("delivered", 0),
    ]  # fmt: skip


def test_segments_that_share_an_id_are_delivered_by_its_one_receipt() -> None:
    shared = attempt(provider_message_id="A1,A1,A1", segments=3)
    found = match(receipt(provider_message_id="a1"), [shared], "auto", settled=True)
    assert isinstance(found, Match)
    assert events(NOTHING, (found.segment, "delivered"), sent=shared) == [("delivered", 0)]


def test_a_segment_without_an_id_is_not_waited_for() -> None:
    gap = attempt(provider_message_id="A1,,A3", segments=3)
    assert events(NOTHING, (1, "delivered"), (3, "delivered"), sent=gap) == [
        ("receipt", 1), ("delivered", 0),
    ]  # fmt: skip


def test_a_receipt_for_the_whole_of_a_message_in_segments_needs_no_other() -> None:
    assert events(NOTHING, (0, "delivered"), sent=THREE) == [("delivered", 0)]


def test_only_what_is_filed_about_the_attempt_is_known_of_it() -> None:
    def told(
        event: Any, number: int = 1, message_id: str = attempt().message_id, segment: int = 0
    ) -> AttemptRecord:
        return AttemptRecord(event=event, message_id=message_id, attempt=number, code="C", segment=segment)

    filed = [
        attempt(),
        told("receipt", segment=2),
        told("receipt"),
        told("delivered", 2),
        told("undelivered", 1, "x"),
    ]
    assert known_of(attempt(), filed) == Known(arrived=frozenset((2,)), codes=frozenset("C"))
    assert known_of(attempt(), [*filed, told("retrying")]).undelivered
    assert known_of(attempt(), [attempt(event="retrying")]) == NOTHING


TOLD = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(STATES)), max_size=12)


def known_after(known: Known, told: list[tuple[int, str]]) -> Known:
    for row in rows_for(THREE, known, [(segment, receipt(state)) for segment, state in told]):
        known = known.joined(learnt(row.event, row.code, row.segment))
    return known


@given(TOLD, st.integers(0, 12))
def test_receipts_in_one_batch_or_in_two_add_the_same(told: list[tuple[int, str]], cut: int) -> None:
    first = events(NOTHING, *told[:cut], sent=THREE)
    second = events(known_after(NOTHING, told[:cut]), *told[cut:], sent=THREE)
    assert first + second == events(NOTHING, *told, sent=THREE)


@given(TOLD, st.randoms(use_true_random=False))
def test_receipts_told_again_add_nothing_in_whatever_order(
    told: list[tuple[int, str]], rng: random.Random
) -> None:
    again = rng.choices(told, k=2 * len(told)) if told else []
    assert events(known_after(NOTHING, told), *again, sent=THREE) == []


@given(TOLD)
def test_the_rows_move_the_status_as_far_as_the_attempt_itself(told: list[tuple[int, str]]) -> None:
    status, known = status_after(None, "sent"), NOTHING
    for row in rows_for(THREE, NOTHING, [(segment, receipt(state)) for segment, state in told]):
        known = known.joined(learnt(row.event, row.code, row.segment))
        assert row.event in ("receipt", "delivered", "undelivered")
        status = status_after(status, row.event)
    expected = "delivered" if known.delivered else "undelivered" if known.undelivered else "sent"
    assert status == expected
    arrived = {segment for segment, state in told if state == "delivered"}
    assert known.delivered <= (arrived == {1, 2, 3})


# -- sent again

KEPT = Message(
    id=attempt().message_id, organisation_id=7, to="+989121234567", text="Your code is 1234", sender="ACME",
    encoding="GSM-7", segments=2, units=6, accepted_at_us=T0 - 5, expires_at_us=T0 + 300_000_000,
)  # fmt: skip


def test_a_message_sent_again_is_paid_for_and_prefers_another_provider() -> None:
    [lost] = rows_for(attempt(attempt=3), NOTHING, [(1, receipt("undelivered"))])
    again = sent_again(lost, KEPT, T0 + 6_000_000)
    assert again is not None
    row, message = again
    assert (row.event, row.code, row.attempt, row.provider_message_id, row.due_at_us) == (
        "retrying", "UNDELIV 069", 3, "00AB12", T0 + 6_000_000,
    )  # fmt: skip
    assert (message.units, message.attempts, message.tried) == (0, 3, ("one",))
    assert (message.id, message.text, message.expires_at_us) == (KEPT.id, KEPT.text, KEPT.expires_at_us)
    assert learnt(row.event, row.code, row.segment) == Known(undelivered=True)


def test_a_message_is_not_sent_again_after_its_validity_nor_round_and_round() -> None:
    [lost] = rows_for(attempt(), NOTHING, [(1, receipt("undelivered"))])
    assert sent_again(lost, KEPT, KEPT.expires_at_us) is None
    assert sent_again(lost, msgspec.structs.replace(KEPT, tried=("one",)), T0) is None
    assert sent_again(lost, msgspec.structs.replace(KEPT, tried=("two",)), T0) is not None
