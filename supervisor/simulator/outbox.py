"""Receipts on their way: when each is due, what becomes of those that are not taken.

Every receipt is one small record, in one heap until it is due and then with the way it
travels by. One that is not taken (no answer, or one that says no) is tried again after a
pause that doubles, TRIES_MAX times in all; then it has failed. One whose SMPP session ended
is given to the next session at once, and that is no try. The simulator killed: all are gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from engine.backoff import pause_after
from supervisor.simulator.receipts import Outcome, Receipt, Way
from supervisor.simulator.transport import Delays

# Receipts that are not out yet; more are dropped, and counted. Some 400 bytes each.
PENDING_MAX = 1_000_000
# With these pauses a receipt is tried for about 20 seconds.
TRIES_MAX = 8
PAUSE_S = 0.25
PAUSE_S_MAX = 8.0


class Outbox:
    """See `simulator_receipts.Post`."""

    def __init__(self) -> None:
        self._delays: Delays[Receipt] = Delays(self._go)
        self._http: Way | None = None
        self._smpp: Way | None = None
        self._era = 0
        self._start()

    def use(self, http: Way, smpp: Way) -> None:
        """To be called once, before the first receipt."""
        self._http, self._smpp = http, smpp

    def _start(self) -> None:
        self._pending = 0
        self._sent = self._retried = self._failed = self._dropped = 0

    def reset(self) -> None:
        self._era += 1
        self._delays.clear()
        for way in (self._http, self._smpp):
            if way is not None:
                way.clear()
        self._start()

    def stats(self) -> dict[str, Any]:
        return {
            "pending": self._pending, "sent": self._sent, "retried": self._retried,
            "failed": self._failed, "dropped": self._dropped,
        }  # fmt: skip

    def post(self, due_s: float, receipt: Receipt) -> None:
        if self._admit(receipt):
            self._delays.add(due_s, receipt)

    def post_now(self, receipt: Receipt, then: Callable[[], None] | None) -> None:
        if self._admit(receipt):
            self._go(receipt, then)
        elif then is not None:
            then()

    def _admit(self, receipt: Receipt) -> bool:
        if self._pending >= PENDING_MAX:
            self._dropped += 1
            return False
        self._pending += 1
        receipt.era = self._era
        return True

    def _go(self, receipt: Receipt, then: Callable[[], None] | None = None) -> None:
        way = self._http if receipt.sent.system_id is None else self._smpp
        assert way is not None
        way.take(receipt, then)

    def ended(self, receipt: Receipt, outcome: Outcome) -> None:
        """An attempt has ended; see `simulator_receipts.Ended`."""
        if receipt.era != self._era:
            return  # it was under way when everything else was forgotten
        if outcome == "again":
            receipt.refusals += 1
            if receipt.refusals < TRIES_MAX:
                self._retried += 1
                pause_s = pause_after(receipt.refusals, PAUSE_S, PAUSE_S_MAX)
                self._delays.add(time.monotonic() + pause_s, receipt)
                return
        self._pending -= 1
        if outcome == "sent":
            self._sent += 1
        else:
            self._failed += 1
