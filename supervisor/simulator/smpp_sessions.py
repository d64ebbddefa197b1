"""The sessions of the SMPP server: who may bind, and which of them carries which receipt.

A receipt goes over any session of the same system_id that may receive; those wait their
turn whose system_id has none now. It is out when its deliver_sm is answered with ESME_ROK.
Under failure: answered with another status, or not within ANSWER_S, the attempt has ended
and the outbox decides; the session gone, another one gets it at once. In both cases the
client may have had it already, and gets it twice.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from engine.providers.pacing import Ticker
from engine.providers.smpp.body import Bind
from engine.providers.smpp.codes import CommandStatus
from supervisor.simulator.behaviour import Behaviour
from supervisor.simulator.receipts import Ended, Receipt

# How long a deliver_sm may be unanswered.
ANSWER_S = 10.0
TICK_S = 0.25


class Session(Protocol):
    """A session as the others see it."""

    system_id: str

    @property
    def has_room(self) -> bool:
        """Whether it can carry one more receipt now."""

    def deliver(self, receipt: Receipt) -> None: ...

    def sweep(self, now_s: float) -> None:
        """End what is overdue."""


class Sessions:
    """See `simulator_receipts.Way`. `behaviour` gives that of the moment."""

    def __init__(self, behaviour: Callable[[], Behaviour], ended: Ended) -> None:
        self._behaviour = behaviour
        self.ended = ended
        self._open: set[Session] = set()
        # Bound sessions by system_id, and those of them that may receive, next first.
        self._bound: Counter[str] = Counter()
        self._receivers: dict[str, deque[Session]] = {}
        self._waiting: dict[str, deque[Receipt]] = {}
        self._ticker = Ticker(TICK_S, self._tick)

    def start(self) -> None:
        self._ticker.start()

    def stop(self) -> None:
        self._ticker.stop()

    def stats(self) -> dict[str, Any]:
        receiving = sum(map(len, self._receivers.values()))
        return {"connections": len(self._open), "bound": self._bound.total(), "receiving": receiving}

    # -- sessions

    def opened(self, session: Session) -> None:
        self._open.add(session)

    def judge(self, bind: Bind) -> CommandStatus:
        """Whether this bind is welcome."""
        smpp = self._behaviour().smpp
        if self._behaviour().outage:
            return CommandStatus.ESME_RSYSERR
        if smpp.system_id is not None and bind.system_id != smpp.system_id:
            return CommandStatus.ESME_RINVSYSID
        if smpp.password is not None and bind.password != smpp.password:
            return CommandStatus.ESME_RINVPASWD
        if smpp.sessions_max is not None and self._bound[bind.system_id] >= smpp.sessions_max:
            return CommandStatus.ESME_RBINDFAIL
        return CommandStatus.ESME_ROK

    def bound(self, session: Session, receives: bool) -> None:
        self._bound[session.system_id] += 1
        if receives:
            self._receivers.setdefault(session.system_id, deque()).append(session)
            self.pump(session.system_id)

    def closed(self, session: Session, bound: bool, unanswered: Iterable[Receipt]) -> None:
        """It has ended; `unanswered` are the receipts it carried, oldest first."""
        self._open.discard(session)
        if not bound:
            return
        system_id = session.system_id
        self._bound[system_id] -= 1
        if not self._bound[system_id]:
            del self._bound[system_id]
        receivers = self._receivers.get(system_id)
        if receivers is not None and session in receivers:
            receivers.remove(session)
            if not receivers:
                del self._receivers[system_id]
        back = list(unanswered)
        if back:
            self._waiting.setdefault(system_id, deque()).extendleft(reversed(back))
            self.pump(system_id)

    # -- receipts

    def take(self, receipt: Receipt, then: Callable[[], None] | None = None) -> None:
        assert then is None, "over SMPP nothing waits for a receipt"
        system_id = receipt.sent.system_id
        assert system_id is not None
        self._waiting.setdefault(system_id, deque()).append(receipt)
        self.pump(system_id)

    def clear(self) -> None:
        self._waiting.clear()

    def pump(self, system_id: str) -> None:
        """Give sessions what they have room for, each in its turn."""
        waiting, receivers = self._waiting.get(system_id), self._receivers.get(system_id)
        if not waiting or not receivers or self._behaviour().outage == "hang":
            return
        full = 0
        while waiting and full < len(receivers):
            session = receivers[0]
            receivers.rotate(-1)
            if session.has_room:
                full = 0
                session.deliver(waiting.popleft())
            else:
                full += 1
        if not waiting:
            del self._waiting[system_id]

    def _tick(self) -> None:
        now_s = time.monotonic()
        for session in list(self._open):
            session.sweep(now_s)
        # What an outage or a slow reader held back.
        for system_id in list(self._waiting):
            self.pump(system_id)
