"""Rule: what each event of a message means for its status, its charge and its queue entry.

`EVENTS` is the one table that decides this. Everybody who needs to know looks there:

    delivery  `Settlement.outcome` in `engine.records` follows from the event in the settlement's row,
              and the Lua function `settle` books by that outcome
    audit     `engine.credit.laws` and the SQL in `engine.stores.clickhouse.activity` count an
              event's units as held, captured or released
    history   `engine.activity.history` folds a message's events into its status and its charge

Status. A status only moves forward, in the order of `STATUSES`:

    scheduled < accepted < sent < outcome_unknown < canceled < expired < failed < undelivered < delivered

Events come from several processes, each with its own clock, through several streams. A receipt
may be recorded before the `sent` of the same message. An event may be seen twice. A reader may see
the later half of a history first. So the status is a *join*: the new status is the further one of
the old status and the status that the event stands for. Joins commute, associate and are
idempotent: the status is the same in whatever order the events are folded, and however often
each. A late `sent` never overwrites a receipt, nor an end that was reached before it.

Why this order. `outcome_unknown`, `canceled`, `expired` and `failed` exclude each other, because exactly one
settlement of a message counts, so their order does not matter. A receipt stands above them, because it
is the provider's own word: a message that was given up after sends of unknown outcome may have been
delivered after all. `delivered` stands above `undelivered`, because providers correct a
provisional failure into a delivery, and not the other way round.

`retrying` means that the message is in its queue and was tried, so it stands for `accepted`.
`dead` stands for `accepted` too: the message lies in the dead-letter stream with its units held,
until an operator replays or drops it. It is not an end; the event itself stays visible in
the history. `receipt` is a provider's word on the way, or on one segment of several, so the
message is at least `sent`.

Charge. It begins `held`, at admission. The one settlement that counts ends it: `captured` when a
provider took the message, `released` when none will. When nobody knows, the setting of the queue
decides. So that end has two events, one for each charge, and both stand for the same status. Both
charges are final; a receipt moves no units.

Entry. While an entry is in the queue, one settlement at most takes it out: it is done with, due
again, or a dead letter. Events that come before or after that leave it where it is.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

MessageEvent = Literal[
    "accepted",  # it was admitted to its queue
    "scheduled",  # it was admitted, and is not to be sent before a later time
    "sent",  # a provider took it
    "retrying",  # an attempt failed for now, and another follows; or an operator has replayed a dead letter
    "failed",  # no provider takes it, or an operator has dropped it
    "expired",  # its validity ended before a provider took it
    "canceled",  # its organisation has canceled it before a worker was given it
    "outcome_unknown",  # it is not sent again after too many sends of unknown outcome; it is charged
    "outcome_unknown_released",  # the same, and it is not charged
    "dead",  # it was set aside in the dead-letter stream, after it outlived several workers
    "receipt",  # a receipt that ends nothing: on its way, or one segment of several has arrived
    "delivered",  # a receipt: the recipient has it, every segment of it
    "undelivered",  # a receipt: the recipient will not get it
]
Status = Literal[
    "scheduled", "accepted", "sent", "outcome_unknown", "canceled", "expired", "failed", "undelivered",
    "delivered",
]  # fmt: skip
Charge = Literal["held", "captured", "released"]
# What an event does to the units of its message.
ChargeEffect = Literal["holds", "captures", "releases", "leaves"]
# What becomes of the queue entry: it stays where it is, is due again at a later time, is moved to
# the dead letters, or is done with.
EntryEffect = Literal["stays", "due", "dead", "done"]
# What a settlement tells Redis to do with an entry and its units; see `Settlement`.
SettlementOutcome = Literal["captured", "released", "retry", "dead"]

# From the least to the furthest.
STATUSES: tuple[Status, ...] = get_args(Status)


class Meaning(NamedTuple):
    """What one event means for its message."""

    # The status that the event stands for.
    status: Status
    charge: ChargeEffect
    entry: EntryEffect


EVENTS: dict[MessageEvent, Meaning] = {
    "scheduled": Meaning("scheduled", "holds", "due"),
    "accepted": Meaning("accepted", "holds", "stays"),
    "retrying": Meaning("accepted", "leaves", "due"),
    "dead": Meaning("accepted", "leaves", "dead"),
    "sent": Meaning("sent", "captures", "done"),
    "outcome_unknown": Meaning("outcome_unknown", "captures", "done"),
    "outcome_unknown_released": Meaning("outcome_unknown", "releases", "done"),
    "failed": Meaning("failed", "releases", "done"),
    "expired": Meaning("expired", "releases", "done"),
    "canceled": Meaning("canceled", "releases", "done"),
    "receipt": Meaning("sent", "leaves", "stays"),
    "undelivered": Meaning("undelivered", "leaves", "stays"),
    "delivered": Meaning("delivered", "leaves", "stays"),
}

# An event of a newer version is shown, and says nothing about the message.
_UNKNOWN = Meaning("scheduled", "leaves", "stays")

# What an event does to charge and entry, as the outcome of a settlement.
_OUTCOMES: dict[tuple[ChargeEffect, EntryEffect], SettlementOutcome] = {
    ("captures", "done"): "captured",
    ("releases", "done"): "released",
    ("leaves", "due"): "retry",
    ("leaves", "dead"): "dead",
}
_OUTCOME_OF: dict[str, SettlementOutcome] = {
    event: _OUTCOMES[meaning.charge, meaning.entry]
    for event, meaning in EVENTS.items()
    if (meaning.charge, meaning.entry) in _OUTCOMES
}
_CHARGE_AFTER: dict[ChargeEffect, Charge] = {"captures": "captured", "releases": "released"}
_RANK = {status: rank for rank, status in enumerate(STATUSES)}


def status_after(status: Status | None, event: MessageEvent) -> Status:
    """The status once `event` is known; `status` None: no event was known before."""
    own = EVENTS.get(event, _UNKNOWN).status
    return own if status is None or _RANK[own] > _RANK[status] else status


def charge_after(charge: Charge, event: MessageEvent) -> Charge:
    """The charge once `event` is known. Only a held charge changes."""
    return _CHARGE_AFTER.get(EVENTS.get(event, _UNKNOWN).charge, charge) if charge == "held" else charge


def outcome_of(event: str) -> SettlementOutcome:
    """The outcome of the settlement that records `event`.

    Raises ValueError for an event that settles no entry.
    """
    outcome = _OUTCOME_OF.get(event)
    if outcome is None:
        raise ValueError(f'The event "{event}" settles no entry.')
    return outcome


def events_that(effect: ChargeEffect) -> tuple[MessageEvent, ...]:
    """The events with this effect on the charge, in the order of the table."""
    return tuple(event for event, meaning in EVENTS.items() if meaning.charge == effect)
