"""Receipts that are not out yet: when each is due, and what becomes of those that are not taken.

Every receipt is one small record. It lies in one heap until it is due, and then with the way
(HTTP or SMPP) that carries it. A receipt that is not taken (no answer, or a refusal) is tried
again after a pause that doubles, TRIES_MAX times in all; then it has failed. When the SMPP
session of a receipt ends, the next session gets it at once, and that does not count as a try.
When the simulator is killed, all receipts here are lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from engine.clocks.backoff import pause_after
from supervisor.simulator.receipts import Outcome, Receipt, Way
from supervisor.simulator.transport import Delays

# Receipts kept here, about 400 bytes each; further ones are dropped and counted.
PENDING_MAX = 1_000_000
# With these pauses a receipt is tried for about 20 seconds.
TRIES_MAX = 8
PAUSE_S = 0.25
PAUSE_S_MAX = 8.0


class Outbox:
    """Keeps receipts until they are due, and tries them until they are taken: a `receipts.Post`."""

    def __init__(self) -> None:
        self._delays: Delays[Receipt] = Delays(self._go)
        self._http: Way | None = None
        self._smpp: Way | None = None
        self._messages: Way | None = None
        self._era = 0
        self._start()

    def use(self, http: Way, smpp: Way, messages: Way | None = None) -> None:
        """Set the two ways that receipts travel, and that of messages over HTTP. Called once, before the
        first receipt."""
        self._http, self._smpp, self._messages = http, smpp, messages

    def _start(self) -> None:
        self._pending = 0
        self._sent = self._retried = self._failed = self._dropped = 0

    def reset(self) -> None:
        """Forget all receipts that are not out and set the counts to 0. Attempts under way do not count."""
        self._era += 1
        self._delays.clear()
        for way in (self._http, self._smpp, self._messages):
            if way is not None:
                way.clear()
        self._start()

    def stats(self) -> dict[str, Any]:
        """Receipts since the last reset: how many are pending, sent, retried, failed, dropped."""
        return {
            "pending": self._pending, "sent": self._sent, "retried": self._retried,
            "failed": self._failed, "dropped": self._dropped,
        }  # fmt: skip

    def post(self, due_s: float, receipt: Receipt) -> None:
        """Keep the receipt until `due_s`, or drop it when PENDING_MAX wait."""
        if self._admit(receipt):
            self._delays.add(due_s, receipt)

    def post_now(self, receipt: Receipt, then: Callable[[], None] | None) -> None:
        """Give the receipt to its way at once. When it is dropped, `then` is called before this returns."""
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
        if receipt.url:
            way = self._messages
        assert way is not None
        way.take(receipt, then)

    def ended(self, receipt: Receipt, outcome: Outcome) -> None:
        """Count an attempt that has ended and plan the next one if it needs one: a `receipts.Ended`."""
        if receipt.era != self._era:
            return  # it was under way at a reset
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
