"""The sessions of the SMPP server: who may bind, and which of them carries which receipt.

A receipt goes over any session of the same system_id that may receive. It waits while there is
no such session. It is out when its deliver_sm is answered with ESME_ROK. Under failure:

- the deliver_sm is answered with another status, or not within ANSWER_S seconds: the attempt
  has ended, and the outbox decides whether there is another;
- the session ends before the answer: another session gets the receipt at once.

In both cases the client may have the receipt already, and gets it twice.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from engine.providers.smpp.body import Bind
from engine.providers.smpp.codes import CommandStatus
from engine.providers.ticker import Ticker
from supervisor.simulator.behaviour import Behaviour
from supervisor.simulator.receipts import Ended, Receipt

# How long a deliver_sm may be unanswered.
ANSWER_S = 10.0
TICK_S = 0.25


class Session(Protocol):
    """What `Sessions` asks of a session."""

    system_id: str

    @property
    def has_room(self) -> bool:
        """Whether it can carry one more receipt now."""

    def deliver(self, receipt: Receipt) -> None:
        """Carry the receipt; `Sessions.ended` or `Sessions.closed` is called with it once."""

    def sweep(self, now_s: float) -> None:
        """End what is overdue at `now_s`, time.monotonic()."""


class Sessions:
    """All SMPP sessions, which carry receipts: a `receipts.Way`. `behaviour` gives the present one."""

    def __init__(self, behaviour: Callable[[], Behaviour], ended: Ended) -> None:
        self._behaviour = behaviour
        self.ended = ended
        self._open: set[Session] = set()
        # By system_id: the number of bound sessions, and those that may receive, the next one first.
        self._bound: Counter[str] = Counter()
        self._receivers: dict[str, deque[Session]] = {}
        self._waiting: dict[str, deque[Receipt]] = {}
        self._ticker = Ticker(TICK_S, self._tick)

    def start(self) -> None:
        """Begin to look for what is overdue, every TICK_S seconds."""
        self._ticker.start()

    def stop(self) -> None:
        """Look no more for what is overdue; the connections stay open."""
        self._ticker.stop()

    def stats(self) -> dict[str, Any]:
        """Number of open connections, of bound sessions, and of those that may receive."""
        receiving = sum(map(len, self._receivers.values()))
        return {"connections": len(self._open), "bound": self._bound.total(), "receiving": receiving}

    def receivers(self) -> list[str]:
        """The system_ids of which a session may receive."""
        return list(self._receivers)

    # -- sessions

    def opened(self, session: Session) -> None:
        """A connection was made; it is not bound yet."""
        self._open.add(session)

    def judge(self, bind: Bind) -> CommandStatus:
        """The status that answers this bind: ESME_ROK, or why it is refused."""
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
        """A session has bound. When it `receives`, it gets the receipts that wait for its system_id."""
        self._bound[session.system_id] += 1
        if receives:
            self._receivers.setdefault(session.system_id, deque()).append(session)
            self.pump(session.system_id)

    def closed(self, session: Session, bound: bool, unanswered: Iterable[Receipt]) -> None:
        """A session has ended. The receipts it carried, `unanswered`, oldest first, go to another one."""
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
        """Give the receipt to a session of its system_id as soon as one has room."""
        assert then is None, "over SMPP nothing waits for a receipt"
        system_id = receipt.sent.system_id
        assert system_id is not None
        self._waiting.setdefault(system_id, deque()).append(receipt)
        self.pump(system_id)

    def clear(self) -> None:
        """Forget the receipts that wait for a session."""
        self._waiting.clear()

    def pump(self, system_id: str) -> None:
        """Give the receipts that wait to the sessions of this system_id that have room, in turn."""
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
        # An outage or a slow client may have held receipts back.
        for system_id in list(self._waiting):
            self.pump(system_id)
