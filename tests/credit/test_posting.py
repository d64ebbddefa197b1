"""The ledger's function over the books: the laws hold after every entry, whatever comes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.credit.ledger_records import Account, BalanceEvent, Books, RemainingUnits, UsageEntry
from engine.credit.posting import close_books, decide, size_grant
from engine.credit.records import LedgerAnswer, QuotaRequest, QuotaReturn
from engine.stream_id import StreamId

ORG = 1
TOTAL = 1000


def books(available: int = TOTAL, **quotas: int) -> Books:
    granted = sum(quotas.values())
    return Books(
        accounts={ORG: Account(0, available, granted, 0, 0)},
        quotas={ORG: dict(quotas)} if quotas else {},
        waiting={},
    )


def entry(kind: str, holder: str, data: object = b"", shard: int = 0) -> UsageEntry:
    encoded = data if isinstance(data, bytes) else msgspec.msgpack.encode(data)
    return UsageEntry(shard, StreamId(1, 0), kind, holder, 1, encoded)  # type: ignore[arg-type]


def request(holder: str, number: int, wanted: int, needed: int) -> UsageEntry:
    return entry(
        "request", holder, QuotaRequest(number=number, organisation_id=ORG, wanted=wanted, needed=needed)
    )


def given_back(holder: str, units: int, recall: int = 0) -> UsageEntry:
    return entry("return", holder, QuotaReturn(organisation_id=ORG, units=units, recall=recall))


def answers(b: Books) -> list[tuple[str, str, int]]:
    return [(holder, answer.kind, answer.units) for _, holder, answer in b.answers]


def test_a_request_is_granted_from_what_is_available() -> None:
    b = books()
    decide(b, [request("a", 1, 100, 1)])
    assert answers(b) == [("a", "grant", 100)]
    assert b.accounts[ORG] == Account(0, 900, 100, 0, 0)
    assert b.quotas[ORG] == {"a": 100}


def test_usage_moves_quota_to_held_and_settling_moves_it_on() -> None:
    b = books(900, a=100)
    decide(b, [entry("usage", "a", [ORG, 30]), entry("settle", "w", [ORG, 20, 10])])
    assert b.accounts[ORG] == Account(0, 910, 70, 0, 20)
    assert b.movements == {(0, ORG, "hold"): 30, (0, ORG, "capture"): 20, (0, ORG, "release"): 10}


def test_when_nobody_else_has_quota_too_little_is_refused() -> None:
    b = books(5, a=2)
    decide(b, [request("a", 1, 100, 6)])
    assert answers(b) == [("a", "refusal", 0)]


def test_what_is_available_is_granted_exactly_when_it_covers_what_is_needed() -> None:
    b = books(6, a=2)
    decide(b, [request("a", 1, 100, 6)])
    assert answers(b) == [("a", "grant", 6)]


def test_quota_of_others_is_recalled_before_anybody_is_refused() -> None:
    b = books(5, a=0, b=50, c=40)
    decide(b, [request("a", 1, 100, 80)])
    assert sorted(answers(b)) == [("b", "recall", 0), ("c", "recall", 0)]
    decide(b, [given_back("b", 50, 1)])
    assert len(b.answers) == 2
    decide(b, [given_back("c", 40, 1)])
    assert answers(b)[2:] == [("a", "grant", 80)]


def test_a_recall_is_sent_again_while_the_holder_still_has_quota() -> None:
    b = books(0, b=50)
    decide(b, [request("a", 1, 10, 10), given_back("b", 5, 1)])
    assert answers(b) == [("b", "recall", 0), ("b", "recall", 0)]
    # What it had reserved meanwhile arrives as usage, then nothing is left to recall.
    decide(b, [entry("usage", "b", [ORG, 45]), given_back("b", 0, 1)])
    assert answers(b)[2:] == [("a", "refusal", 0)]


def test_fencing_ends_a_recall_and_frees_the_quota() -> None:
    b = books(0, b=50)
    decide(b, [request("a", 1, 10, 10), entry("fence", "b")])
    assert answers(b) == [("b", "recall", 0), ("a", "grant", 10)]
    assert b.accounts[ORG].available == 40


def test_what_a_fenced_holder_asked_for_is_answered_to_nobody() -> None:
    b = books(0, b=50)
    decide(b, [request("a", 1, 10, 10), entry("fence", "a"), given_back("b", 50, 1)])
    assert answers(b) == [("b", "recall", 0)]
    assert b.accounts[ORG].available == 50


def test_a_marker_ends_the_epoch_in_its_own_shard_only() -> None:
    b = books(0, b=50)
    decide(b, [entry("fence", "b", shard=4)])
    assert b.quotas[ORG] == {"b": 50}


def test_requests_are_answered_one_after_another() -> None:
    b = books(0, b=50)
    decide(b, [request("a", 1, 10, 10), request("c", 1, 1, 1)])
    assert answers(b) == [("b", "recall", 0)]
    decide(b, [given_back("b", 50, 1)])
    assert answers(b)[1:] == [("a", "grant", 10), ("c", "grant", 1)]


def test_usage_beyond_the_quota_is_covered_by_other_units_of_the_organisation() -> None:
    b = books(3, a=5, b=4)
    decide(b, [entry("usage", "a", [ORG, 10])])
    assert b.accounts[ORG] == Account(0, 0, 2, 10, 0)
    assert b.quotas[ORG] == {"a": 0, "b": 2}
    assert (b.covered, b.unbooked) == ({ORG}, [])


def test_what_no_unit_covers_is_set_aside_with_its_settlement_and_nothing_is_granted() -> None:
    b = books(1, a=5)
    decide(b, [entry("usage", "a", [ORG, 9]), entry("settle", "w", [ORG, 7, 2])])
    assert [(u.kind, u.held, u.captured, u.released) for u in b.unbooked] == [
        ("usage", 3, 0, 0), ("settle", 0, 1, 2)
    ]  # fmt: skip
    assert b.accounts[ORG] == Account(0, 0, 0, 0, 6, unbooked=0)
    b.accounts[ORG].available = 100
    decide(b, [request("a", 1, 10, 1)])
    assert answers(b) == [("a", "refusal", 0)]


def test_an_organisation_that_the_books_lack_is_set_aside_and_refused() -> None:
    b = Books(accounts={}, quotas={}, waiting={})
    decide(b, [request("a", 1, 10, 1), entry("usage", "a", [ORG, 9]), given_back("a", 4)])
    assert [(u.organisation_id, u.held) for u in b.unbooked] == [(ORG, 9)]
    assert answers(b) == [("a", "refusal", 0)]


@given(
    st.integers(0, 30),
    st.lists(
        st.tuples(
            st.sampled_from(["usage", "settle", "return", "request", "fence"]),
            st.sampled_from(["a", "b"]),
            st.integers(0, 20),
        ),
        max_size=30,
    ),
)
def test_whatever_the_books_lack_each_unit_is_booked_or_set_aside(
    available: int, steps: list[tuple[str, str, int]]
) -> None:
    b = books(available)
    held = captured = 0
    for number, (kind, holder, units) in enumerate(steps, 1):
        if kind == "usage":
            held += units
            decide(b, [entry("usage", holder, [ORG, units])])
        elif kind == "settle":
            units = min(units, held)
            held, captured = held - units, captured + units
            decide(b, [entry("settle", "w", [ORG, units, 0])])
        elif kind == "return":
            decide(b, [given_back(holder, units)])
        elif kind == "request":
            decide(b, [request(holder, number, units, min(units, 1))])
        else:
            decide(b, [entry("fence", holder)])
        a = b.accounts[ORG]
        assert a.available + a.granted + a.held + a.captured == available
        assert min(a.available, a.granted, a.held, a.captured) >= 0
        assert a.granted == sum(b.quotas.get(ORG, {}).values())
        aside = [sum(x) for x in zip(*[(u.held, u.captured, u.released) for u in b.unbooked], strict=True)]
        aside_held, aside_captured, aside_released = aside or [0, 0, 0]
        assert a.held + aside_held - aside_captured - aside_released == held
        assert a.captured + aside_captured == captured
        assert not b.unbooked or a.available == a.granted == 0 or held + captured <= available


def watched(threshold: int | None, available: int = TOTAL, **quotas: int) -> Books:
    b = books(available, **quotas)
    b.accounts[ORG].low_balance = threshold
    return b


@pytest.mark.parametrize(
    ("threshold", "low"), [(970, []), (971, [ORG]), (1000, [ORG]), (1001, []), (None, [])]
)
def test_falling_below_the_threshold_is_noted(threshold: int | None, low: list[int]) -> None:
    b = watched(threshold, 900, a=100)
    decide(b, [entry("usage", "a", [ORG, 10]), entry("usage", "a", [ORG, 20])])
    assert b.low == low


def test_quota_with_a_holder_is_usable_still() -> None:
    b = watched(1000)
    decide(b, [request("a", 1, 100, 1), given_back("a", 100), request("a", 2, 100, 1), entry("fence", "a")])
    assert b.low == []


def test_who_is_below_is_not_told_again_before_the_threshold_was_reached_again() -> None:
    b = watched(950, 900, a=100)
    steps = []
    for entries in (
        [entry("usage", "a", [ORG, 60])],
        [entry("usage", "a", [ORG, 20])],
        [entry("settle", "w", [ORG, 50, 29])],
        [entry("settle", "w", [ORG, 0, 1]), entry("usage", "a", [ORG, 1])],
        [entry("usage", "a", [ORG, 1])],
    ):
        decide(b, entries)
        steps.append((b.accounts[ORG].usable, len(b.low)))
    # A top-up comes by another transaction.
    b.accounts[ORG].available += 100
    decide(b, [entry("usage", "a", [ORG, 1])])
    decide(b, [request("a", 1, 200, 1), entry("usage", "a", [ORG, 98])])
    steps.append((b.accounts[ORG].usable, len(b.low)))
    assert steps == [(940, 1), (920, 1), (949, 1), (949, 1), (948, 1), (949, 2)]


def test_down_and_up_again_within_one_transaction_is_not_told() -> None:
    b = watched(1000, 900, a=100)
    decide(b, [entry("usage", "a", [ORG, 30]), entry("settle", "w", [ORG, 0, 30])])
    assert b.low == []


def test_closing_the_books_tells_as_well() -> None:
    b = watched(1000, 900, a=100)
    close_books(b, 0, {ORG: RemainingUnits(held=1, news=0)})
    assert (b.accounts[ORG].usable, b.low) == (999, [ORG])


def test_an_event_of_an_organisation_is_a_row_without_a_message() -> None:
    event = BalanceEvent(row_id=5, shard=3, organisation_id=ORG, event="low_balance", units=49, at_us=17)
    row = event.activity()
    assert (row.organisation_id, row.event, row.units, row.at_us) == (ORG, "low_balance", 49, 17)
    assert (row.message_id, row.to, row.segments, row.accepted_at_us) == ("", "", 0, 17)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_grant_covers_the_need_and_never_exceeds_the_wish_or_the_balance(
    needed: int, more_waiting: int, more_wanted: int, more_available: int
) -> None:
    waiting = needed + more_waiting
    wanted = waiting + more_wanted
    available = needed + more_available
    granted = size_grant(
        available, QuotaRequest(number=1, organisation_id=1, wanted=wanted, needed=needed, waiting=waiting)
    )
    assert needed <= granted <= min(wanted, available)
    assert granted >= min(waiting, available)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(1, 400)), max_size=60))
def test_no_unit_is_made_or_lost_and_every_request_of_a_living_holder_is_answered(
    steps: list[tuple[int, int, int]],
) -> None:
    """Random traffic of three holders that keep the protocol."""
    b = books()
    numbers = dict.fromkeys("abc", 0)
    open_requests: dict[tuple[str, int], None] = {}
    read = 0

    def run(*entries: UsageEntry) -> None:
        nonlocal read
        decide(b, entries)
        account = b.accounts[ORG]
        parts = (account.available, account.granted, account.held, account.captured)
        assert sum(parts) == TOTAL
        assert min(parts) >= 0
        assert account.granted == sum(b.quotas.get(ORG, {}).values())
        for _, holder, answer in b.answers[read:]:
            if answer.kind != "recall":
                del open_requests[holder, answer.number]
        read = len(b.answers)

    for action, who, units in steps:
        holder = "abc"[who]
        quota = b.quotas.get(ORG, {}).get(holder, 0)
        if action == 0:
            numbers[holder] += 1
            open_requests[holder, numbers[holder]] = None
            run(request(holder, numbers[holder], units * 2, units))
        elif action == 1 and quota:
            run(entry("usage", holder, [ORG, min(units, quota)]))
        elif action == 2 and b.accounts[ORG].held:
            captured = min(units, b.accounts[ORG].held)
            run(entry("settle", "w", [ORG, captured, b.accounts[ORG].held - captured]))
        elif action == 3 and quota:
            run(given_back(holder, min(units, quota)))
        elif action == 4:
            for key in [k for k in open_requests if k[0] == holder]:
                del open_requests[key]
            run(entry("fence", holder))
    # Every holder now answers its recalls; then nothing may be left waiting.
    for _ in range(10):
        for holder in "abc":
            run(given_back(holder, b.quotas.get(ORG, {}).get(holder, 0), recall=1))
    assert not open_requests
    assert all(isinstance(answer, LedgerAnswer) for _, _, answer in b.answers)
