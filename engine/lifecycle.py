"""Rule: what an event makes of the status of a message, and of its charge.

Theory. A message has two states, which change independently: its *status*, what
the customer is told about delivery, and its *charge*, what its units of credit are.

The status only moves forward, in the order of `STATUSES`:

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
exclude one another, because exactly one settlement of a message counts. So their order
among themselves does not matter. A receipt is above them, because it comes from the provider:
an attempt whose outcome was unknown may have been given up as failed and
then be delivered after all. `delivered` is above `undelivered`: providers correct
a provisional failure into a delivery, not the other way round.

`retrying` says that the message is in its queue and was tried, so it is at least `accepted`.
`dead` says the same: the message is a dead letter with its units still held,
until an operator replays or drops it. It is not an end, and the event stays
visible in the history. `receipt` is a receipt before the end, or for one segment of
several, so the message is at least `sent`.

The charge begins as `held`, at admission. The one settlement that counts ends it:
`captured` when a provider took the message, `released` when none will. Both are final;
a receipt moves no credit.
"""

from __future__ import annotations

from typing import Literal, get_args

from engine.records import MessageEvent

Status = Literal[
    "scheduled", "accepted", "sent", "rejected", "canceled", "expired", "failed", "undelivered", "delivered"
]
Charge = Literal["held", "captured", "released"]
# Every event of a message. `MessageEvent` has those that are recorded today; the others are to come.
Happening = MessageEvent | Literal["rejected", "canceled"]

# In order, the furthest last.
STATUSES: tuple[Status, ...] = get_args(Status)

# The status that an event stands for. It is the status after the first event.
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

# The events that move a status on, to the status that they stand for. All others leave it.
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

# The events that end a held charge, and what it becomes.
_SETTLES: dict[Happening, Charge] = {
    "sent": "captured",
    "rejected": "released",
    "canceled": "released",
    "expired": "released",
    "failed": "released",
}

# The two tables. Each has every pair, so that a look-up always finds one.
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
    """The status of a message after `event`; `status` None: no event was known before."""
    return STANDS_FOR[event] if status is None else STATUS[status, event]


def charge_after(charge: Charge, event: Happening) -> Charge:
    """The charge of a message after `event`."""
    return CHARGE[charge, event]
