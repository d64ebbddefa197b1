"""The holder's machine: whom an answer serves, when it asks, what it gives back."""

from __future__ import annotations

from engine._fastcredits import CreditMap
from engine.credit.holder import Effects, Holder, Waiter
from engine.credit.records import LedgerAnswer

ORG = 7
SECOND = 1_000_000


def holder(quota_min: int = 100) -> tuple[Holder, CreditMap]:
    credit = CreditMap()
    return Holder(credit, quota_s=2.0, quota_min=quota_min, validity_us=30 * SECOND), credit


def grant(number: int, units: int) -> LedgerAnswer:
    return LedgerAnswer(kind="grant", number=number, organisation_id=ORG, units=units)


def refusal(number: int) -> LedgerAnswer:
    return LedgerAnswer(kind="refusal", number=number, organisation_id=ORG)


def test_a_first_wish_asks_for_what_waits_and_the_smallest_quota_beside() -> None:
    machine, _ = holder(quota_min=100)
    [request] = machine.want(ORG, Waiter(1, 3, 30), 0).requests
    assert (request.needed, request.wanted) == (3, 130)


def test_quota_that_is_left_is_not_asked_for_again() -> None:
    machine, credit = holder(quota_min=100)
    credit.grant(ORG, 2)
    [request] = machine.want(ORG, Waiter(1, 5, 5), 0).requests
    assert (request.needed, request.wanted) == (3, 103)


def test_only_one_request_of_an_organisation_is_under_way() -> None:
    machine, _ = holder()
    machine.want(ORG, Waiter(1, 1, 1), 0)
    assert machine.want(ORG, Waiter(2, 1, 1), 0) == Effects()


def test_a_grant_wakes_all_who_wait_in_order_of_arrival() -> None:
    machine, credit = holder()
    machine.want(ORG, Waiter(1, 1, 1), 0)
    machine.want(ORG, Waiter(2, 1, 1), 0)
    assert machine.answered(grant(1, 50), 0).wake == [1, 2]
    assert credit.remaining(ORG) == 50


def test_after_units_were_released_those_who_wait_try_again_and_the_refusal_is_not_for_them() -> None:
    machine, credit = holder()
    machine.want(ORG, Waiter(1, 3, 3), 0)
    credit.grant(ORG, 5)
    assert machine.released(ORG).wake == [1]
    # It asked when nothing was left; now five are, so the answer says nothing of a cost of 3.
    assert machine.want(ORG, Waiter(2, 6, 6), 0) == Effects()
    effects = machine.answered(refusal(1), 0)
    assert effects.refuse == []
    assert [(r.number, r.needed) for r in effects.requests] == [(2, 1)]


def test_a_refusal_is_only_for_those_who_were_there_when_the_request_was_made() -> None:
    machine, _ = holder()
    machine.want(ORG, Waiter(1, 1, 1), 0)
    machine.want(ORG, Waiter(2, 4, 4), 0)
    effects = machine.answered(refusal(1), 0)
    assert effects.refuse == [1]
    [again] = effects.requests
    assert (again.number, again.needed) == (2, 4)
    assert machine.answered(refusal(2), 0).refuse == [2]


def test_an_answer_seen_twice_changes_nothing() -> None:
    machine, credit = holder()
    machine.want(ORG, Waiter(1, 1, 1), 0)
    machine.answered(grant(1, 50), 0)
    assert machine.answered(grant(1, 50), 0) == Effects()
    assert credit.remaining(ORG) == 50


def test_a_waiter_that_went_away_is_neither_woken_nor_refused() -> None:
    machine, _ = holder()
    machine.want(ORG, Waiter(1, 1, 1), 0)
    machine.forget(ORG, 1)
    assert machine.answered(refusal(1), 0) == Effects()


def test_a_recall_returns_what_is_not_reserved_and_an_empty_hand_says_so() -> None:
    machine, credit = holder()
    credit.grant(ORG, 10)
    assert credit.reserve(ORG, 4)
    recall = LedgerAnswer(kind="recall", number=9, organisation_id=ORG)
    [given] = machine.answered(recall, 0).returns
    assert (given.units, given.recall) == (6, 9)
    [empty] = machine.answered(recall, 0).returns
    assert (empty.units, empty.recall) == (0, 9)


def test_quota_is_refilled_before_it_runs_out_and_sized_by_the_rate() -> None:
    machine, credit = holder(quota_min=1)
    credit.grant(ORG, 10_000)
    requests = []
    for tick in range(1, 41):
        assert credit.reserve(ORG, 250)
        effects = machine.tick(0.25, tick * SECOND // 4)
        for request in effects.requests:
            requests.append(request)
            machine.answered(grant(request.number, request.wanted), tick * SECOND // 4)
    # 1,000 units a second: asked below one second's worth, up to two seconds' worth.
    assert requests
    assert all(800 <= r.wanted <= 2000 for r in requests)
    assert credit.remaining(ORG) >= 250


def test_idle_quota_is_returned_after_its_validity_time_and_not_before() -> None:
    machine, credit = holder()
    machine.want(ORG, Waiter(1, 1, 1), 0)
    machine.answered(grant(1, 50), 0)
    assert machine.tick(0.25, 29 * SECOND).returns == []
    [given] = machine.tick(0.25, 30 * SECOND).returns
    assert (given.units, given.recall) == (50, 0)
    assert credit.remaining(ORG) == 0
    assert machine.tick(0.25, 90 * SECOND).returns == []


def test_a_fenced_holder_has_nothing_and_names_all_who_waited() -> None:
    machine, credit = holder()
    credit.grant(ORG, 5)
    machine.want(ORG, Waiter(1, 9, 9), 0)
    machine.want(ORG, Waiter(2, 9, 9), 0)
    assert machine.fenced() == [1, 2]
    assert len(credit) == 0
    assert machine.answered(grant(1, 50), 0) == Effects()


def test_whoever_leaves_is_told_nothing_and_the_others_keep_their_order() -> None:
    machine, _ = holder()
    for token in range(1, 7):
        machine.want(ORG, Waiter(token, 1, 1), 0)
    for token in (1, 3, 5, 99):
        machine.forget(ORG, token)
    assert machine.answered(grant(1, 50), 0).wake == [2, 4, 6]
