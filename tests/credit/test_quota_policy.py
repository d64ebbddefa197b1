"""The quota policy under traffic as uneven as the world's."""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque

from engine._fastcredits import CreditMap
from engine.credit.holder import Effects, Holder, Waiter
from engine.credit.records import LedgerAnswer

ORGANISATIONS = 50_000
ADMISSIONS = 600_000
PER_S = 5_000
# From a request to its grant, in admissions: 20 ms at this rate.
ROUND = 100


class Traffic:
    """One holder and a ledger with ample balances that answers a round later."""

    def __init__(self) -> None:
        self.credit = CreditMap()
        self.holder = Holder(self.credit, quota_s=2.0, quota_min=100, validity_us=3600 * 10**6)
        self.answers: deque[tuple[int, LedgerAnswer]] = deque()
        self.at = 0
        self.waiting: dict[int, int] = {}
        self.rounds: Counter[int] = Counter()

    @property
    def now_us(self) -> int:
        return self.at * 1_000_000 // PER_S

    def perform(self, effects: Effects) -> None:
        for request in effects.requests:
            grant = LedgerAnswer(
                kind="grant",
                number=request.number,
                organisation_id=request.organisation_id,
                units=request.wanted,
            )
            self.answers.append((self.at + ROUND, grant))
        for token in effects.wake:
            self.try_again(token)

    def try_again(self, token: int) -> None:
        organisation_id = self.waiting[token]
        if self.credit.reserve(organisation_id, 1):
            del self.waiting[token]
            return
        self.rounds[token] += 1
        self.perform(self.holder.want(organisation_id, Waiter(token, 1, 1), self.now_us))

    def admit(self, organisation_id: int) -> None:
        self.at += 1
        while self.answers and self.answers[0][0] <= self.at:
            self.perform(self.holder.answered(self.answers.popleft()[1], self.now_us))
        if not self.credit.reserve(organisation_id, 1):
            self.waiting[self.at] = organisation_id
            self.rounds[self.at] += 1
            self.perform(self.holder.want(organisation_id, Waiter(self.at, 1, 1), self.now_us))
        if self.at % (PER_S // 4) == 0:
            self.perform(self.holder.tick(0.25, self.now_us))


def test_of_a_thousand_admissions_at_most_one_waits_for_the_network_and_none_twice() -> None:
    rng = random.Random(1)
    weights = list(itertools.accumulate(1 / (i + 1) for i in range(ORGANISATIONS)))
    traffic = Traffic()
    # A process that starts knows who has been spending.
    traffic.perform(traffic.holder.prefetch(range(ORGANISATIONS), 0))
    while traffic.answers:
        traffic.perform(traffic.holder.answered(traffic.answers.popleft()[1], 0))
    for organisation_id in rng.choices(range(ORGANISATIONS), cum_weights=weights, k=ADMISSIONS):
        traffic.admit(organisation_id)
    assert len(traffic.rounds) <= ADMISSIONS // 1000
    assert max(traffic.rounds.values(), default=0) <= 1


def test_organisations_never_seen_before_wait_one_round_each_and_no_more() -> None:
    rng = random.Random(2)
    weights = list(itertools.accumulate(1 / (i + 1) for i in range(ORGANISATIONS)))
    traffic = Traffic()
    picks = rng.choices(range(ORGANISATIONS), cum_weights=weights, k=ADMISSIONS // 4)
    for organisation_id in picks:
        traffic.admit(organisation_id)
    waited = Counter(traffic.rounds.values())
    assert set(waited) <= {1}
    # While an organisation's first grant is under way, more of its messages may come.
    assert waited[1] <= 1.2 * len(set(picks))
