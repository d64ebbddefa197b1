"""Rule: what becomes of a message, and of its charge, when an event is recorded.

Theory. A message has two states that move apart from each other: its *status*, what
the customer is told about delivery, and its *charge*, what its units of credit are.

The status only moves forward, in the order of `Status`:

    scheduled < accepted < sent < rejected < canceled < expired < failed
              < undelivered < delivered

Events come from several processes, each with its own clock, through several streams:
a receipt may be recorded before the `sent` of the same message, an event may be seen
twice, and a reader may see the later half of a history first. So the table below is a
*join*: the new status is the greater of the old one and the one the event stands for.
Joins commute, associate and are idempotent; whatever the order in which the events
are folded, and however often each, the status comes out the same. A late `sent` never
overwrites a receipt, nor an end that was reached before it.

Why this order. The ends that the engine decides (rejected, canceled, expired, failed)
exclude one another, because exactly one settlement of a message counts; their order
among themselves never matters. A receipt stands above them: it is the provider's own
word, and an attempt whose outcome was unknown may have been given up as failed and
then be delivered after all. `delivered` stands above `undelivered`: providers correct
a provisional failure into a delivery, not the other way round.

`retrying` says that the message is in its queue and was tried: at least `accepted`.
`dead` says the same: the message lies in the dead-letter stream, its units still held,
until an operator replays or drops it; it is not an end, and the event itself stays
visible in the history. `receipt` is a provider's word on the way, or on one segment of
several: at least `sent`.

The charge begins `held`, at admission. The one settlement that counts ends it:
`captured` when a provider took the message, `released` when none will. Both are final;
a receipt moves no money.
"""

from __future__ import annotations

from typing import Literal, get_args

from engine.records import MessageEvent

Status = Literal[
    "scheduled", "accepted", "sent", "rejected", "canceled", "expired", "failed", "undelivered", "delivered"
]
Charge = Literal["held", "captured", "released"]
# Every event of a message there is or is to be; `MessageEvent` lists those recorded today.
Happening = MessageEvent | Literal["rejected", "canceled"]

# The status an event stands for by itself; also the first status, when no event came before.
STANDS_FOR: dict[Happening, Status] = {
    "scheduled": "scheduled",
    "accepted": "accepted",
    "retrying": "accepted",
    "dead": "accepted",
    "sent": "sent",
    "receipt": "sent",
    "rejected": "rejected",
    "canceled": "canceled",
    "expired": "expired",
    "failed": "failed",
    "undelivered": "undelivered",
    "delivered": "delivered",
}

# Which events move a status on, to what they stand for; all others leave it.
_MOVES: dict[Status, tuple[Happening, ...]] = {
    "scheduled": (
        "accepted", "retrying", "dead", "sent", "receipt", "rejected", "canceled", "expired", "failed",
        "undelivered", "delivered",
    ),
    "accepted": ("sent", "receipt", "rejected", "canceled", "expired", "failed", "undelivered", "delivered"),
    "sent": ("rejected", "canceled", "expired", "failed", "undelivered", "delivered"),
    "rejected": ("canceled", "expired", "failed", "undelivered", "delivered"),
    "canceled": ("expired", "failed", "undelivered", "delivered"),
    "expired": ("failed", "undelivered", "delivered"),
    "failed": ("undelivered", "delivered"),
    "undelivered": ("delivered",),
    "delivered": (),
}  # fmt: skip

# Which events end a held charge, and how.
_SETTLES: dict[Happening, Charge] = {
    "sent": "captured",
    "rejected": "released",
    "canceled": "released",
    "expired": "released",
    "failed": "released",
}

# The two tables. Each names every pair, so that a look-up never misses.
STATUS: dict[tuple[Status, Happening], Status] = {
    (status, event): STANDS_FOR[event] if event in moves else status
    for status, moves in _MOVES.items()
    for event in STANDS_FOR
}
CHARGE: dict[tuple[Charge, Happening], Charge] = {
    (charge, event): _SETTLES.get(event, charge) if charge == "held" else charge
    for charge in get_args(Charge)
    for event in STANDS_FOR
}


def status_after(status: Status | None, event: Happening) -> Status:
    """The status once `event` is known; `status` None: nothing was known before."""
    return STANDS_FOR[event] if status is None else STATUS[status, event]


def charge_after(charge: Charge, event: Happening) -> Charge:
    """The charge once `event` is known."""
    return CHARGE[charge, event]
