"""What follows from a verdict or the end of validity: charge, retry or refund, never two of them."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import message_format
from engine.delivery.dead_letters import begun_anew
from engine.delivery.settlement import (
    DELIVERIES_MAX,
    RetryPauses,
    UnknownOutcomes,
    after_verdict,
    before_sending,
    in_older_words,
    put_back,
    put_off,
    put_off_in,
    unroutable,
)
from engine.records import (
    NO_RECEIPTS,
    RECEIPTS_BY_ANY_ID,
    Entry,
    Message,
    ScheduledMessage,
    Verdict,
    VerdictKind,
    due_at_us_of,
)

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


@pytest.mark.parametrize("kind", ["accepted", "permanent", "temporary", "unknown"])
def test_the_row_of_an_attempt_says_how_receipts_name_it_and_that_of_a_test_number_that_nobody_knows(
    kind: VerdictKind,
) -> None:
    row = after_verdict(entry(), verdict(kind), NOW, PAUSES, Random(1), receipts_by=NO_RECEIPTS).row
    assert row
    assert row.receipts_by == NO_RECEIPTS
    test = msgspec.structs.replace(verdict(kind), is_test=True)
    row = after_verdict(entry(), test, NOW, PAUSES, Random(1), receipts_by=NO_RECEIPTS).row
    assert row
    assert row.receipts_by == RECEIPTS_BY_ANY_ID


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


@pytest.mark.parametrize("kind", get_args(VerdictKind))
def test_a_scheduled_message_keeps_its_time_wherever_it_goes_and_is_sent_with_it(kind: VerdictKind) -> None:
    due_at_us = NOW - SECOND // 2
    message = ScheduledMessage(**msgspec.structs.asdict(entry().message), due_at_us=due_at_us)
    one = msgspec.structs.replace(entry(deliveries=2), message=message)
    settlement = after_verdict(one, verdict(kind), NOW, PAUSES, Random(1), reroute=True)
    assert settlement.row
    if kind == "accepted":
        # The settlement itself puts nothing on the due set.
        assert (settlement.row.due_at_us, settlement.due_at_us) == (due_at_us, 0)
        assert due_at_us_of(message_format.from_json(settlement.row.kept)) == due_at_us
    elif kind == "permanent":
        assert settlement.row.due_at_us == 0
    else:
        assert settlement.row.due_at_us == settlement.due_at_us > NOW
        assert settlement.message
        assert due_at_us_of(settlement.message) == due_at_us
    for waiting in (put_off(one, NOW), put_off_in(one, "p"), put_back(one)):
        assert waiting.message
        assert due_at_us_of(waiting.message) == due_at_us
    assert due_at_us_of(begun_anew(message)) == due_at_us


def test_only_the_attempts_of_a_retried_message_change() -> None:
    sent = entry(attempts=4)
    settlement = after_verdict(sent, verdict("temporary"), NOW, PAUSES, Random(1))
    assert settlement.message is not None
    before, after = (
        {f: getattr(m, f) for f in m.__struct_fields__} for m in (sent.message, settlement.message)
    )
    assert after == before | {"attempts": 5}


# What can happen to a message in its queue: verdicts, deaths of its worker, no provider with room.
STEPS = st.sampled_from(("temporary", "throttled", "unknown", "killed after", "killed before", "put off"))


def lives(steps: list[str], unknown: UnknownOutcomes) -> tuple[list[str], int]:
    """One message from its queue to its end: its events, and how many of its sends nobody knows about.

    A retry or a put-off makes a new entry.
    """
    at, now, events, sends = entry(), NOW, [], 0
    for step in steps:
        stopped = before_sending(at, now, unknown)
        if stopped is None and step.startswith("killed"):
            sends += step == "killed after"
            at = msgspec.structs.replace(at, deliveries=at.deliveries + 1)
            continue
        if stopped is not None:
            settlement = stopped
        elif step == "put off":
            settlement = put_off(at, now + 1)
        else:
            sends += step == "unknown"
            settlement = after_verdict(at, verdict(step), now, PAUSES, Random(1), unknown=unknown)  # type: ignore[arg-type]
        if settlement.row is not None:
            events.append(settlement.row.event)
        if settlement.outcome != "retry":
            return events, sends
        assert settlement.message is not None
        now = settlement.due_at_us
        at = msgspec.structs.replace(entry(), message=settlement.message)
    return events, sends


@given(steps=st.lists(STEPS, min_size=5, max_size=20), sends_max=st.integers(1, 4), charged=st.booleans())
def test_no_message_is_sent_with_an_unknown_outcome_more_often_than_its_queue_allows(
    steps: list[str], sends_max: int, charged: bool
) -> None:
    unknown = UnknownOutcomes(sends_max=sends_max, charged=charged)
    events, sends = lives(steps, unknown)
    # The end is one settlement, and the charge at the bound is the setting's.
    assert all(event == "retrying" for event in events[:-1])
    assert sends <= sends_max
    ends = Counter(events)
    assert ends["outcome_unknown"] <= charged
    assert ends["outcome_unknown_released"] <= (not charged)


@pytest.mark.parametrize(("charged", "outcome", "event"), [
    (True, "captured", "outcome_unknown"), (False, "released", "outcome_unknown_released"),
])  # fmt: skip
def test_the_last_send_of_unknown_outcome_ends_the_message_and_the_queue_says_who_pays(
    charged: bool, outcome: str, event: str
) -> None:
    unknown = UnknownOutcomes(sends_max=3, charged=charged)
    at = entry()
    for attempt in (1, 2):
        settlement = after_verdict(at, verdict("unknown"), NOW, PAUSES, Random(1), unknown=unknown)
        assert settlement.outcome == "retry"
        assert settlement.message is not None
        assert settlement.message.unknown_sends == attempt
        at = msgspec.structs.replace(at, message=settlement.message)
    # Another provider that is free changes nothing.
    last = after_verdict(at, verdict("unknown"), NOW, PAUSES, Random(1), others=True, unknown=unknown)
    assert last.row is not None
    assert (last.outcome, last.row.event, last.row.outcome_unknown) == (outcome, event, True)
    assert (last.row.provider, last.row.code, last.row.attempt) == ("p", "42", 3)
    # What is known does not count.
    known = after_verdict(at, verdict("temporary"), NOW, PAUSES, Random(1), unknown=unknown)
    assert known.message is not None
    assert known.message.unknown_sends == 2


def test_a_send_that_its_worker_did_not_live_to_settle_counts_wherever_the_message_goes() -> None:
    taken_over = entry(deliveries=2)
    assert before_sending(taken_over, NOW) is None
    retried = after_verdict(taken_over, verdict("temporary"), NOW, PAUSES, Random(1)).message
    again = after_verdict(taken_over, verdict("unknown"), NOW, PAUSES, Random(1)).message
    waiting = put_off(taken_over, NOW).message
    assert retried is not None
    assert again is not None
    assert waiting is not None
    assert (retried.unknown_sends, again.unknown_sends, waiting.unknown_sends) == (1, 2, 1)
    row = after_verdict(taken_over, verdict("accepted"), NOW, PAUSES, Random(1), reroute=True).row
    assert row is not None
    assert msgspec.json.decode(row.kept, type=Message).unknown_sends == 1
    # Twice unknown, and then its worker died: a third time is one too many to try again.
    doubtful = msgspec.structs.replace(taken_over, message=again)
    end = before_sending(doubtful, NOW)
    assert end is not None
    assert end.row is not None
    assert (end.row.event, end.row.code, end.row.attempt) == ("outcome_unknown", "taken_over", 2)
    assert end.row.outcome_unknown


def test_a_bound_that_was_lowered_holds_for_messages_that_are_under_way() -> None:
    message = msgspec.structs.replace(entry().message, unknown_sends=2, attempts=2)
    end = before_sending(msgspec.structs.replace(entry(), message=message), NOW, UnknownOutcomes(sends_max=2))
    assert end is not None
    assert end.row is not None
    assert (end.row.event, end.row.code, end.row.attempt) == ("outcome_unknown", "unknown_outcomes_max", 2)


def test_a_message_of_an_older_version_has_no_unknown_sends_and_an_older_version_reads_ours() -> None:
    ours = msgspec.msgpack.decode(msgspec.msgpack.encode(entry().message))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ours[:-1]), type=Message).unknown_sends == 0
    # An array with a field more than a reader knows is one that it reads.
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([*ours, 1]), type=Message) == entry().message


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


def test_at_most_once_gives_up_what_may_have_been_sent_by_a_worker_that_lives_or_one_that_died() -> None:
    once = UnknownOutcomes(sends_max=1, charged=False)
    unanswered = after_verdict(entry(), verdict("unknown"), NOW, PAUSES, Random(1), others=True, unknown=once)
    for settlement in (unanswered, before_sending(entry(deliveries=2), NOW, once)):
        assert settlement is not None
        assert settlement.row is not None
        assert (settlement.outcome, settlement.row.event, settlement.row.outcome_unknown) == (
            "released",
            "outcome_unknown_released",
            True,
        )
    # Nothing else is given up by it.
    assert before_sending(entry(), NOW, once) is None
    sure = after_verdict(entry(), verdict("temporary"), NOW, PAUSES, Random(1), unknown=once)
    assert sure.outcome == "retry"


@pytest.mark.parametrize("sent", [True, False])
def test_an_end_that_an_older_version_cannot_read_waits_and_then_ends(sent: bool) -> None:
    unknown, due_at_us = UnknownOutcomes(sends_max=2, charged=True), NOW + 10 * SECOND
    first = replaced(entry(attempts=1), unknown_sends=1 if sent else 2)
    if sent:
        ending = after_verdict(first, verdict("unknown"), NOW, PAUSES, Random(1), unknown=unknown)
    else:
        ending = before_sending(first, NOW, unknown) or pytest.fail("it may be sent")
    assert ending.row is not None
    assert ending.row.event == "outcome_unknown"
    waits = in_older_words(ending, unknown, due_at_us)
    assert (waits.outcome, waits.due_at_us) == ("retry", due_at_us)
    assert (waits.row is not None and waits.row.event) == ("retrying" if sent else False)
    assert waits.message is not None
    again = msgspec.structs.replace(first, message=waits.message)
    # It is not sent again, and has its end as soon as that can be written.
    end = before_sending(again, due_at_us, unknown)
    assert end is not None
    assert end.row is not None
    assert (end.row.event, end.row.attempt) == ("outcome_unknown", 2 if sent else 1)


@pytest.mark.parametrize(("sends_max", "charged"), [(1, True), (1, False), (2, False)])
def test_an_end_in_the_words_of_an_older_version(sends_max: int, charged: bool) -> None:
    unknown = UnknownOutcomes(sends_max=sends_max, charged=charged)
    last = replaced(entry(), unknown_sends=sends_max - 1)
    ending = after_verdict(last, verdict("unknown"), NOW, PAUSES, Random(1), unknown=unknown)
    older = in_older_words(ending, unknown, NOW + SECOND)
    assert older.row is not None
    assert (older.row.event, older.outcome, older.row.outcome_unknown) == ("failed", "released", True)


def replaced(one: Entry, **changes: int) -> Entry:
    return msgspec.structs.replace(one, message=msgspec.structs.replace(one.message, **changes))
