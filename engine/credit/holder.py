"""The holder's side of credit, as a pure state machine: events in, effects out.

A holder keeps quota in a `CreditMap` and reserves from it without asking anybody. This
machine decides when to ask the ledger for more, which waiters an answer serves, and when to
give quota back. It has no clock and no socket: `now_us` is an argument, effects are returned.

Why a refusal is true. At most one request of an organisation is under way. It says
`needed = c - r`: `c` is the smallest cost that waits, and `r` the quota left when the request
was made. The ledger refuses at an instant when `available < needed` and no other holder has
quota. Between the request and that instant `r` only shrinks: no other grant is under way, and
when a reservation is undone, all waiters try again and then ask anew. So at that instant the
organisation had at most `available + r < c` unspent units everywhere. The refusal is true for
every waiter with a cost of at least `c` that was there when the request was made. Later waiters
wait for the next request, so a top-up that was confirmed before a message was sent is always
seen. Refusals are not remembered.

Quota is sized by the observed rate. It lasts for `quota_s` seconds. More is asked for in the
background when half of that, or a quarter of the last grant, is left; so an organisation that
sends one message an hour seldom waits either. An organisation that asks again before its rate is
known gets twice its last quota, so that a sudden campaign needs few rounds. A holder that starts
asks for quota of organisations that spend before they send (`prefetch`). Unused quota goes back
after a long time only, because quota that another holder needs is recalled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from engine._fastcredits import CreditMap
from engine.credit.records import LedgerAnswer, QuotaRequest, QuotaReturn

# The name of a waiter or a submission, which the service chooses.
Token = int

# Weight of the newest observation in the rate: about four ticks of memory.
_SMOOTHING = 0.4
_WANTED_MAX = 1 << 40


class Waiter(msgspec.Struct, frozen=True):
    """A client that waits for units of one organisation."""

    token: Token
    # The cheapest message it waits for, units.
    cost: int
    # All messages that it waits for, units.
    total: int


class Effects(msgspec.Struct):
    """What the service must do now, in this order."""

    requests: list[QuotaRequest] = []
    returns: list[QuotaReturn] = []
    # These reserve again; those that still fail wait again.
    wake: list[Token] = []
    # The organisation cannot pay for these; the refusal is binding.
    refuse: list[Token] = []


class _Asked(msgspec.Struct):
    number: int
    # By token, in the order in which they came. When requests time out, many leave at once, so each
    # must leave in constant time.
    waiters: dict[Token, Waiter]
    # Waiters that came after the request was made; they wait for the next one.
    later: dict[Token, Waiter] = {}


class _Pace(msgspec.Struct):
    """How fast an organisation spends."""

    last_used_us: int
    # Units per second, smoothed.
    rate: float = 0.0
    last_granted: int = 0


class Holder:
    """The quotas of one holder, all shards; see the module."""

    def __init__(self, credit: CreditMap, *, quota_s: float, quota_min: int, validity_us: int) -> None:
        """`quota_s`, `quota_min`: as in `config.Credit`; quota idle for `validity_us` is returned."""
        self._credit = credit
        self._quota_s = quota_s
        self._quota_min = quota_min
        self._validity_us = validity_us
        self._asked: dict[int, _Asked] = {}
        # By last use, the longest idle first.
        self._paces: OrderedDict[int, _Pace] = OrderedDict()
        self._number = 0

    def want(self, organisation_id: int, waiter: Waiter, now_us: int) -> Effects:
        """A client begins to wait for units that the map does not have."""
        effects = Effects()
        asked = self._asked.get(organisation_id)
        if asked is not None:
            asked.later[waiter.token] = waiter
        else:
            self._ask(organisation_id, {waiter.token: waiter}, now_us, effects)
        return effects

    def prefetch(self, organisation_ids: Iterable[int], now_us: int) -> Effects:
        """Ask for quota of organisations that are likely to send, before a client waits."""
        effects = Effects()
        for organisation_id in organisation_ids:
            if organisation_id not in self._asked and not self._credit.remaining(organisation_id):
                self._ask(organisation_id, {}, now_us, effects)
        return effects

    def forget(self, organisation_id: int, token: Token) -> None:
        """A client has gone. Its request stays under way and serves the next one."""
        asked = self._asked.get(organisation_id)
        if asked is not None:
            asked.waiters.pop(token, None)
            asked.later.pop(token, None)

    def answered(self, answer: LedgerAnswer, now_us: int) -> Effects:
        """An answer of the ledger. One to a request that is not under way was seen before: no effects."""
        effects = Effects()
        organisation_id = answer.organisation_id
        if answer.kind == "recall":
            units = self._credit.take(organisation_id)
            effects.returns.append(
                QuotaReturn(organisation_id=organisation_id, units=units, recall=answer.number)
            )
            return effects
        asked = self._asked.get(organisation_id)
        if asked is None or asked.number != answer.number:
            return effects
        del self._asked[organisation_id]
        if answer.kind == "grant":
            self._credit.grant(organisation_id, answer.units)
            self._pace(organisation_id, now_us).last_granted = answer.units
            effects.wake = [*asked.waiters, *asked.later]
            return effects
        effects.refuse = list(asked.waiters)
        if asked.later:
            self._ask(organisation_id, asked.later, now_us, effects)
        return effects

    def released(self, organisation_id: int) -> Effects:
        """Reserved units came back without a grant: all waiters try again.

        The request under way stays. Its `needed` was computed from the quota that was left when it
        was made, so a refusal of it would no longer be true for these waiters.
        """
        effects = Effects()
        asked = self._asked.get(organisation_id)
        if asked is not None:
            effects.wake = [*asked.waiters, *asked.later]
            asked.waiters, asked.later = {}, {}
        return effects

    def tick(self, elapsed_s: float, now_us: int) -> Effects:
        """Learn the rates of the last `elapsed_s` seconds, ask for quota that runs low, return idle quota."""
        effects = Effects()
        for organisation_id, used in self._credit.drain():
            pace = self._pace(organisation_id, now_us)
            pace.rate += _SMOOTHING * (used / elapsed_s - pace.rate)
            pace.last_used_us = now_us
            self._paces.move_to_end(organisation_id)
            low = max(pace.rate * self._quota_s / 2, pace.last_granted / 4)
            if organisation_id not in self._asked and self._credit.remaining(organisation_id) < low:
                self._ask(organisation_id, {}, now_us, effects)
        self._return_idle(now_us, effects)
        return effects

    def fenced(self) -> list[Token]:
        """The epoch is over, and all quota is the ledger's again: the tokens of all waiters."""
        tokens = [token for a in self._asked.values() for token in (*a.waiters, *a.later)]
        self._asked.clear()
        self._paces.clear()
        self._credit.drop()
        self._credit.drain()
        return tokens

    def _ask(self, organisation_id: int, waiters: dict[Token, Waiter], now_us: int, effects: Effects) -> None:
        self._number += 1
        self._asked[organisation_id] = _Asked(number=self._number, waiters=waiters)
        pace = self._pace(organisation_id, now_us)
        remaining = self._credit.remaining(organisation_id)
        needed = max(1, min((w.cost for w in waiters.values()), default=1) - remaining)
        waiting = sum(w.total for w in waiters.values())
        growth = 2 * pace.last_granted if waiters else 0
        supply = max(self._quota_min, int(pace.rate * self._quota_s), growth)
        wanted = min(max(needed, waiting + supply - remaining), _WANTED_MAX)
        effects.requests.append(
            QuotaRequest(
                number=self._number,
                organisation_id=organisation_id,
                wanted=wanted,
                needed=needed,
                waiting=min(max(waiting - remaining, 0), wanted),
            )
        )

    def _pace(self, organisation_id: int, now_us: int) -> _Pace:
        pace = self._paces.get(organisation_id)
        if pace is None:
            pace = self._paces[organisation_id] = _Pace(last_used_us=now_us)
        return pace

    def _return_idle(self, now_us: int, effects: Effects) -> None:
        while self._paces:
            organisation_id, pace = next(iter(self._paces.items()))
            if now_us - pace.last_used_us < self._validity_us:
                return
            if organisation_id in self._asked:
                # An answer is under way: look again after `validity_us`.
                pace.last_used_us = now_us
                self._paces.move_to_end(organisation_id)
                continue
            del self._paces[organisation_id]
            units = self._credit.take(organisation_id)
            if units:
                effects.returns.append(QuotaReturn(organisation_id=organisation_id, units=units))
            self._credit.forget(organisation_id)
