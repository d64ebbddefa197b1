"""Service: messages are canceled, as long as no provider has been given them.

What is known of a message says whether it can be canceled and where it waits; the step that takes it from
there decides (`engine.activity.ports.CancelStore`). Between the two it may move on. Then it is looked for
again, by what is known by then.

    killed, or an answer is lost    it is canceled, or it is not; asked again, the caller learns which
    ClickHouse does not answer      what is recorded in Redis is enough for messages that are not archived yet
    an older version beside this    nothing is canceled, because that one could not read the event
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from engine import ids
from engine.activity.batches import Batches
from engine.activity.campaigns import CanceledCampaign, cancel_campaign
from engine.activity.ports import CancelStore, MessageLookups
from engine.activity.records import CampaignPlace, Cancellation, MessageKey
from engine.batches import Batch
from engine.errors import Closed, Refusal, Unavailable
from engine.lifecycle import EVENTS, Charge, Status
from engine.records import QUEUES, ActivityRow, Queue

# How often a message is looked for that moves on; the first time only where it is likely.
_ROUNDS = 3
# When to ask again for one that was not found, and while an older version runs beside this one, seconds.
_MOVES_S, _OLDER_S = 1.0, 30.0

_SENT = ("already_sent", "A provider has taken this message, so it cannot be canceled.")
_IN_HAND = (
    "being_sent",
    "A worker has this message in hand to give it to a provider, so it cannot be canceled; if it is to be"
    " sent again later, try then.",
)
_PERHAPS_SENT = (
    "may_be_sent",
    "This message was given to a provider, and nobody knows whether that took it, so it cannot be canceled.",
)
_SET_ASIDE = ("set_aside", "This message was set aside as a dead letter, so the operator decides about it.")
_ENDED = "already_ended"
_CANCELED, _MOVES = "canceled", "moving"


class CanceledMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is canceled: the body of the answer."""

    id: str
    status: Status
    charge: Charge
    # Released.
    units: int


class CanceledBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch that was to be canceled: the body of the answer."""

    id: str
    # How many of its messages are canceled, and their units, which are released.
    canceled: int
    units: int
    # How many are not, by why: the codes of one message that cannot be canceled, and `moving`, of which
    # nobody knows where they are: ask again.
    not_canceled: dict[str, int]


class Cancels:
    """Cancels messages."""

    def __init__(
        self,
        lookups: MessageLookups,
        batches: Batches,
        store: CancelStore,
        readable: Callable[[str], bool],
    ) -> None:
        """`readable`: whether every living process can read an event, by its name."""
        self._lookups = lookups
        self._batches = batches
        self._store = store
        self._readable = readable

    async def message(self, organisation_id: int, message_id: str) -> CanceledMessage | None:
        """Cancel one message; None when the organisation has no such message.

        One that is canceled already is answered in the same way. Raises Refusal 409 when it cannot be
        canceled any more, and Unavailable.
        """
        accepted_at_us = ids.accepted_at_us(message_id)
        if accepted_at_us is None:
            return None
        key = MessageKey(organisation_id, message_id, accepted_at_us)
        for far in [False] + [True] * (_ROUNDS - 1):
            rows = await self._rows(key)
            if not rows:
                return None
            if any(row.event == "canceled" for row in rows):
                return _canceled(rows)
            check(rows)
            self._check_versions()
            found = await self._step(key, rows, far)
            if message_id in found.canceled:
                return _canceled(rows)
            if message_id in found.in_hand:
                raise _refusal(*_IN_HAND)
            if message_id in found.given_before:
                raise _refusal(*_PERHAPS_SENT)
        raise Unavailable("The message moves between its queue and a worker; try again.", _MOVES_S)

    async def batch(self, organisation_id: int, batch: Batch) -> CanceledBatch | None:
        """Cancel all messages of a batch that can be canceled; None when the organisation has no such batch.

        Messages that were canceled before count as canceled. Raises Unavailable: some may be canceled by
        then.
        """
        self._check_versions()
        outcome: dict[str, str] = {}
        rows = await self._batches.rows(organisation_id, batch)
        units = {message_id: max(row.units for row in some) for message_id, some in rows.items()}
        for far in [False] + [True] * (_ROUNDS - 1):
            waiting = {
                i: some for i, some in rows.items() if i not in outcome and not _known(i, some, outcome)
            }
            for queue in QUEUES:
                own = [some for some in waiting.values() if some[0].queue == queue]
                if own:
                    found = await self._step_of(organisation_id, queue, batch, own, far)
                    outcome.update(dict.fromkeys(found.in_hand, _IN_HAND[0]))
                    outcome.update(dict.fromkeys(found.given_before, _PERHAPS_SENT[0]))
                    outcome.update(dict.fromkeys(found.canceled, _CANCELED))
            if waiting.keys() <= outcome.keys():
                break
            rows = await self._batches.rows(organisation_id, batch)
        counts = Counter(outcome.get(message_id, _MOVES) for message_id in units)
        canceled = counts.pop(_CANCELED, 0)
        released = sum(of for message_id, of in units.items() if outcome.get(message_id) == _CANCELED)
        if not units:
            return None
        return CanceledBatch(id=batch.id, canceled=canceled, units=released, not_canceled=dict(counts))

    async def campaign(self, organisation_id: int, campaign: str, place: CampaignPlace) -> CanceledCampaign:
        """Cancel messages of a campaign from a place on, as many as one call does. Raises Unavailable."""
        self._check_versions()
        return await cancel_campaign(self._store, organisation_id, campaign, place)

    async def _step_of(
        self,
        organisation_id: int,
        queue: Queue,
        batch: Batch,
        waiting: Sequence[Sequence[ActivityRow]],
        far: bool,
    ) -> Cancellation:
        """Cancel messages of a batch that wait in one queue; `waiting`: the rows of each."""
        due_at_us = sorted({max(row.due_at_us for row in rows) for rows in waiting} - {0})
        return await self._store.cancel(
            queue,
            organisation_id,
            batch.first,
            batch.last,
            len(waiting),
            near=_moment(due_at_us[0]) if due_at_us else batch.first,
            due_at_us=due_at_us,
            far=far,
        )

    async def _rows(self, key: MessageKey) -> list[ActivityRow]:
        """What is known of the message; [] when there is none. Raises Unavailable when that may be too
        little."""
        found = await self._lookups.rows_of(key)
        if not any(row.event in ("accepted", "scheduled") for row in found.rows):
            if found.missing:
                raise found.missing
            if not found.complete:
                raise Unavailable("The archiver is far behind, and the message was not found yet.")
        return found.rows

    async def _step(self, key: MessageKey, rows: Sequence[ActivityRow], far: bool) -> Cancellation:
        due_at_us = max(row.due_at_us for row in rows)
        queue = rows[0].queue
        assert queue
        return await self._store.cancel(
            queue,
            key.organisation_id,
            key.message_id,
            key.message_id,
            1,
            near=_moment(due_at_us) if due_at_us else key.message_id,
            due_at_us=[due_at_us] if due_at_us else [],
            far=far,
        )

    def _check_versions(self) -> None:
        if not self._readable("canceled"):
            raise Closed(
                "older_version",
                "Processes of an older version of the engine run beside this one, which cannot read that a"
                " message is canceled; try again when all nodes have this version.",
                _OLDER_S,
            )


def check(rows: Iterable[ActivityRow]) -> None:
    """Raise Refusal 409 when these rows of a message say that it cannot be canceled any more."""
    by_time = sorted(rows, key=lambda row: row.at_us)
    events = [row.event for row in by_time]
    if any(event in ("sent", "receipt", "delivered", "undelivered") for event in events):
        raise _refusal(*_SENT)
    for event in events:
        if event in EVENTS and EVENTS[event].entry == "done":
            what = event.removesuffix("_released")
            raise _refusal(_ENDED, f"This message has ended: its status is `{what}`.")
    if any(row.outcome_unknown for row in by_time):
        raise _refusal(*_PERHAPS_SENT)
    if [event for event in events if event in ("dead", "retrying")][-1:] == ["dead"]:
        raise _refusal(*_SET_ASIDE)


def _known(message_id: str, rows: Sequence[ActivityRow], outcome: dict[str, str]) -> bool:
    """Whether the rows of a message say that it cannot be canceled, or is; `outcome` is told then."""
    if any(row.event == "canceled" for row in rows):
        outcome[message_id] = _CANCELED
        return True
    try:
        check(rows)
    except Refusal as refusal:
        outcome[message_id] = refusal.code
        return True
    return False


def _refusal(code: str, detail: str) -> Refusal:
    return Refusal(code, 409, detail)


def _canceled(rows: Sequence[ActivityRow]) -> CanceledMessage:
    units = max(row.units for row in rows)
    return CanceledMessage(id=rows[0].message_id, status="canceled", charge="released", units=units)


def _moment(at_us: int) -> str:
    """What sorts behind the ids of messages that are accepted at this time, and before those of later
    ones."""
    ms = at_us // 1000
    return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-8"
