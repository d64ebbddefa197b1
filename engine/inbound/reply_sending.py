"""Service: send the replies to STOP, START and HELP, as messages of their organisations.

The inbox has put them into Redis (`engine.inbound.inbox`). One ingest process, the one with the lease,
submits them as its clients' messages are: they are priced, paid from the organisation's credit, held to its
limits and its destinations, queued and recorded. Only the recipient's opt-out does not hold, because he wrote
himself, and the number that was written to may be the sender, because it is the organisation's by a route.

    killed, or an answer lost   another process submits the reply again; its key, made of the inbound message,
                                is known as that of any request with an Idempotency-Key is
    frozen beyond its lease     two processes submit the same; the key lets one count
    no room, a limit reached,   the reply stays in Redis and is tried again, for an hour after the message
    a queue drained             that it answers
    refused, such as for lack   it is removed, logged and counted
    of credit
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec
import structlog

from engine.errors import Refusal, TooMany, Unavailable
from engine.inbound.auto_replies import LATE_US, DueReply
from engine.intake.kept_answer import Outcome
from engine.intake.under_way import Submitted
from engine.leases.leased_rounds import LeasedRounds
from engine.records import MessageDraft
from engine.stream_id import StreamId

log = structlog.get_logger("auto-replies")

_LOOK_S = 0.5
# Every submission of one reply is the same request.
_FINGERPRINT = bytes(16)


class Waiting(Protocol):
    """A reply as it lies in Redis."""

    @property
    def stream_id(self) -> StreamId:
        """Its place."""

    @property
    def reply(self) -> DueReply:
        """What it says."""


class WaitingReplies(Protocol):
    """The replies in Redis. Every call raises Unavailable, and may be repeated."""

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Become or stay the one process that sends them, for `ttl_ms`; False while another is."""

    async def release(self, owner: str) -> None:
        """Give the lease up at once, if it is `owner`'s."""

    async def waiting(self, after: StreamId | None) -> Sequence[Waiting]:
        """The oldest behind `after`, some hundreds at most."""

    async def remove(self, stream_ids: Sequence[StreamId]) -> None:
        """Remove what is sent, or never will be."""


class AutoReplyCounts(msgspec.Struct):
    """What became of replies: accepted as messages, refused, and not sent within an hour."""

    sent: int = 0
    refused: int = 0
    late: int = 0


class Submission(NamedTuple):
    """A reply as it is submitted."""

    organisation_id: int
    draft: MessageDraft
    idempotency_key: str
    fingerprint: bytes


# Raises what `Ingest.submit` raises.
Submit = Callable[[Submission], Awaitable[Submitted]]


class AutoReplies:
    """Sends the replies of one ingest process; see the module."""

    def __init__(
        self,
        store: WaitingReplies,
        submit: Submit,
        owner: str,
        *,
        now_us: Callable[[], int],
        look_s: float = _LOOK_S,
    ) -> None:
        """`owner` is unique per process incarnation."""
        self._store = store
        self._submit = submit
        self._now_us = now_us
        self._rounds = LeasedRounds(
            store,
            owner,
            self.round,
            of="auto-replies",
            log=log,
            trouble="replies wait in Redis",
            look_s=look_s,
        )
        self._after: StreamId | None = None
        self.counts = AutoReplyCounts()

    async def run(self, draining: asyncio.Event) -> None:
        """Send until `draining` is set; what waits then is left to another process."""
        await self._rounds.run(draining)

    async def round(self) -> None:
        """Submit some of those that wait, in turn. Raises Unavailable."""
        waiting = await self._store.waiting(self._after)
        self._after = waiting[-1].stream_id if waiting else None
        if not waiting:
            return
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._send(one.reply)) for one in waiting]
        done = [one.stream_id for one, task in zip(waiting, tasks, strict=True) if task.result()]
        if done:
            await self._store.remove(done)

    async def _send(self, reply: DueReply) -> bool:
        """Submit one; whether it is done with."""
        if self._now_us() - reply.at_us > LATE_US:
            self.counts.late += 1
            return True
        try:
            submitted = await self._submit(submission_of(reply))
        except (TooMany, Unavailable):
            return False
        except Refusal as refusal:
            self.counts.refused += 1
            log.warning(
                "a reply is refused", organisation_id=reply.organisation_id, message=reply.message_id,
                code=refusal.code, reason=refusal.detail,
            )  # fmt: skip
            return True
        self.counts.sent += not submitted.replayed
        return True


def submission_of(reply: DueReply) -> Submission:
    """The reply as a message of its organisation; `reference` is the id of the message that it answers."""
    draft = MessageDraft(
        to=reply.to,
        text=reply.text,
        sender=reply.sender,
        queue="express",
        reference=reply.message_id,
    )
    # No key of a client has such a character, so none is the same.
    return Submission(reply.organisation_id, draft, f"reply\0{reply.message_id}", _FINGERPRINT)


def render(outcomes: Sequence[Outcome]) -> bytes:
    """The answer to the submission of a reply. Raises its Refusal."""
    outcome = outcomes[0]
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome.id.encode()
