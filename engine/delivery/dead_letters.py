"""Rule: what a dead letter is to an operator, and what becomes of it.

A dead letter is a message with which several workers in a row died. It is set aside, with its units held,
until an operator decides:

    replay   it is due in its queue at once, as if nobody had tried it: its sends of unknown outcome and the
             workers that it outlived count no more. Its attempts count on. The recipient may get it twice
    drop     it has failed, and its units are released

Both take it away from where it lies, and only one of them counts, once. The events are `retrying` with the
code `replayed`, and `failed` with the code `dropped`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from structlog.typing import FilteringBoundLogger

from engine.activity.history import rfc3339
from engine.activity.row import row_of
from engine.records import QUEUES, ActivityRow, Message, Queue, Settlement
from engine.stream_id import StreamId

# The numbers of an entry on a stream are less than this.
_STREAM_ID_END = 1 << 64
# So many characters of a number are shown.
_NUMBER_SHOWN = 4


class DeadLetterId(NamedTuple):
    """Where a dead letter lies. As text: `normal.3.1764327397123-0`. Ids compare in the order of the list.

    A message that becomes a dead letter again after a replay has another id.
    """

    queue: Queue
    shard: int
    entry_id: StreamId

    @classmethod
    def parse(cls, text: str) -> DeadLetterId:
        """Read an id as it is written. Raises ValueError for anything else."""
        name, _, rest = text.partition(".")
        shard, _, entry_id = rest.partition(".")
        found = [queue for queue in QUEUES if queue == name]
        if not (found and shard.isascii() and shard.isdecimal() and entry_id.isascii()):
            raise ValueError(f"no id of a dead letter: {text!r}")
        at = StreamId.parse(entry_id)
        if max(at) >= _STREAM_ID_END:
            raise ValueError(f"no id of a dead letter: {text!r}")
        return cls(found[0], int(shard), at)

    def __str__(self) -> str:
        """The id as text."""
        return f"{self.queue}.{self.shard}.{self.entry_id}"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter as operators see it, without its text. Times are RFC 3339 in UTC."""

    id: str
    queue: Queue
    # False: another version of the engine wrote it, and nothing else is known of it.
    readable: bool
    # When it became one.
    dead_at: str
    message_id: str = ""
    organisation_id: int = 0
    # The beginning of the number.
    to: str = ""
    sender: str = msgspec.field(name="from", default="")
    reference: str = ""
    segments: int = 0
    # The units that it holds.
    units: int = 0
    # Attempts that ended in a failure; those that its workers died with are not among them.
    attempts: int = 0
    accepted_at: str = ""
    expires_at: str = ""
    # Whether its validity is over: then it can only be dropped.
    expired: bool = False


def shown(letter_id: DeadLetterId, message: Message | None, now_us: int) -> DeadLetter:
    """The dead letter with this id; `message` None: it cannot be read."""
    dead_at = rfc3339(letter_id.entry_id.ms * 1000)
    if message is None:
        return DeadLetter(id=str(letter_id), queue=letter_id.queue, readable=False, dead_at=dead_at)
    return DeadLetter(
        id=str(letter_id),
        queue=letter_id.queue,
        readable=True,
        dead_at=dead_at,
        message_id=message.id,
        organisation_id=message.organisation_id,
        to=message.to[:_NUMBER_SHOWN] + "***",
        sender=message.sender,
        reference=message.reference,
        segments=message.segments,
        units=message.units,
        attempts=message.attempts,
        accepted_at=rfc3339(message.accepted_at_us),
        expires_at=rfc3339(message.expires_at_us),
        expired=is_expired(message, now_us),
    )


def log_set_aside(settlements: Iterable[Settlement], log: FilteringBoundLogger) -> None:
    """Log each of these settlements that made a dead letter: of which message, whose, and why.

    Call it when they are written."""
    for settlement in settlements:
        row, entry = settlement.row, settlement.entry
        if row is not None and row.event == "dead":
            log.warning(
                "a message was set aside as a dead letter",
                message_id=entry.message.id,
                organisation_id=entry.message.organisation_id,
                queue=entry.queue,
                reason=row.code,
                deliveries=entry.deliveries,
            )


def is_expired(message: Message, now_us: int) -> bool:
    """Whether the validity of the message is over."""
    return now_us >= message.expires_at_us


def begun_anew(message: Message) -> Message:
    """The message as it enters its queue again."""
    return msgspec.structs.replace(message, tried=(), unknown_sends=0)


def replayed_row(message: Message, queue: Queue, now_us: int) -> ActivityRow:
    """The event of a replay."""
    return row_of(
        message, message.id, queue, "retrying", now_us,
        attempt=message.attempts, code="replayed", due_at_us=now_us,
    )  # fmt: skip


def dropped_row(message: Message, queue: Queue, now_us: int) -> ActivityRow:
    """The event of a drop."""
    return row_of(message, message.id, queue, "failed", now_us, attempt=message.attempts, code="dropped")
