"""Rule: what is done when a provider gives its verdict, and when it gives none.

Messages that a provider accepted are settled together when nothing about them is out of the ordinary, and one
by one otherwise.
"""

from __future__ import annotations

import math

from structlog.typing import FilteringBoundLogger

from engine.delivery.lane import Lane
from engine.delivery.lanes import Lanes
from engine.delivery.provider_choice import ProviderChoice
from engine.delivery.settler import Settler
from engine.delivery.verdict_notes import Accepted, VerdictNotes
from engine.records import Entry, Verdict

# A verdict that has not come so long after the provider's time-out never comes, seconds.
_NO_VERDICT_S = 2.0
# When two looks are further apart than this, seconds, the loop was held up; then verdicts may have come
# that nobody has acted on.
_HELD_UP_S = 1.0
# A lane hesitates when its provider has been silent for longer than the patience, and than this, seconds.
# It may be long before that counts as stalled.
_HESITATION_MIN_S = 0.25
# After so long, seconds, one look does not show that a provider takes unusually long.
_LATE_S = 0.2


class VerdictActions:
    """Acts on the verdicts for the messages of one queue in one worker. Times are monotonic seconds."""

    def __init__(
        self,
        notes: VerdictNotes,
        lanes: Lanes,
        choice: ProviderChoice,
        settler: Settler,
        log: FilteringBoundLogger,
        *,
        hedge: bool,
    ) -> None:
        """`notes`: the verdicts. `settler` takes what becomes of entries. `hedge`: as in `Dispatcher`."""
        self._notes = notes
        self._lanes = lanes
        self._choice = choice
        self._settler = settler
        self._log = log
        self._hedge = hedge
        # When `look_after` was last called, and the states of the breakers then, by provider.
        self.looked_at_s = -math.inf
        self._breakers = {lane.name: lane.breaker.state for lane in lanes}

    def act(self, now_s: float) -> None:
        """Act on all that was noted."""
        for lane, token, verdict in self._notes.take():
            if isinstance(verdict, Accepted):
                self._accepted(lane, verdict, now_s)
            else:
                self._ended(lane, token, verdict, now_s)

    def look_after(self, now_s: float) -> None:
        """Give up messages that have waited for an answer for too long."""
        held_up = now_s - self.looked_at_s > _HELD_UP_S
        late = now_s - self.looked_at_s > _LATE_S
        self.looked_at_s = now_s
        for lane in self._lanes:
            if lane.breaker.state != self._breakers[lane.name]:
                was, self._breakers[lane.name] = self._breakers[lane.name], lane.breaker.state
                self._log.debug("breaker", provider=lane.name, was=was, state=lane.breaker.state)
            if not late:
                lane.hesitates = lane.awaited.silent(now_s, _HESITATION_MIN_S)
            if self._hedge:
                self._give_up_overdue(lane, now_s)
            if held_up:
                # The verdicts that were called back meanwhile count first.
                continue
            for token in lane.awaited.begun_before(now_s - lane.timeout_s - _NO_VERDICT_S):
                self._log.error("provider gave no verdict within its time-out", provider=lane.name)
                verdict = Verdict(kind="unknown", provider=lane.name, code="no_verdict")
                self._notes.ended(lane, token, verdict)

    def _accepted(self, lane: Lane, accepted: Accepted, now_s: float) -> None:
        """As `_ended` for each; together when there is nothing out of the ordinary."""
        tokens, ids, latency_us, code = accepted
        entries = lane.all_accepted(tokens, now_s)
        if entries and not self._choice.reroutes:
            self._settler.sent(entries, ids, latency_us, lane.name, code, lane.receipts_by)
            return
        for n, (token, theirs, took_us) in enumerate(zip(tokens, ids, latency_us, strict=True)):
            verdict = Verdict(
                kind="accepted", provider=lane.name, provider_message_id=theirs, code=code, latency_us=took_us
            )
            if entries:
                self._settle(lane, entries[n], verdict, now_s)
            else:
                self._ended(lane, token, verdict, now_s)

    def _ended(self, lane: Lane, token: int, verdict: Verdict, now_s: float) -> None:
        entry = lane.ended(token, verdict.kind, now_s)
        if entry is not None:
            self._settle(lane, entry, verdict, now_s)

    def _settle(self, lane: Lane, entry: Entry, verdict: Verdict, now_s: float) -> None:
        failed = verdict.kind not in ("accepted", "permanent")
        others = failed and self._choice.another(lane, entry.message, now_s)
        reroute = self._choice.candidates(entry.message).reroute
        self._settler.ended(entry, verdict, others=others, reroute=reroute, receipts_by=lane.receipts_by)

    def _give_up_overdue(self, lane: Lane, now_s: float) -> None:
        """Send messages that wait for an answer for too long to another provider (hedged requests: Dean and
        Barroso, The Tail at Scale, 2013). The outcome of the attempt is unknown, as after a time-out. A
        message that this would end waits for its time-out instead."""
        for token, entry in lane.awaited.overdue(now_s):
            if self._settler.may_be_given_up(entry) and self._choice.another(lane, entry.message, now_s):
                lane.awaited.give_up(token)
                verdict = Verdict(kind="unknown", provider=lane.name, code="overdue")
                self._settler.ended(entry, verdict, others=True, reroute=False, receipts_by=lane.receipts_by)
