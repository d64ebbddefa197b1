"""Service: whether a message may be sent to its recipient, and under which sender, as one process knows it.

Nobody who asks waits: what stands in PostgreSQL is followed beside (`engine.intake.opt_outs` and
`engine.intake.sender_table` say how, and what holds while PostgreSQL is away).
"""

from __future__ import annotations

import asyncio

from engine.errors import Refusal
from engine.intake.opt_outs import OptOutTable
from engine.intake.sender_table import SenderTable


class Permissions:
    """What organisations may send to whom. Call `refresh` once before serving, then `run` until canceled."""

    def __init__(self, opt_outs: OptOutTable, senders: SenderTable) -> None:
        self._opt_outs = opt_outs
        self._senders = senders

    def sender(self, organisation_id: int, to: str, sender: str) -> str:
        """The sender of a message to `to` that names `sender`; "" leaves it to the provider.

        Raises Refusal when the message may not be sent, and Unavailable while that is not known.
        """
        if self._opt_outs.opted_out(organisation_id, to):
            detail = "`to` has opted out of the messages of this organisation."
            raise Refusal("opted_out", 422, detail, "to")
        return self._senders.sender(organisation_id, to, sender)

    def are_free(self, organisation_id: int) -> bool:
        """Whether the organisation may send to anybody, under any sender: `sender` would change nothing."""
        return self._opt_outs.are_none(organisation_id) and self._senders.are_free(organisation_id)

    def reply_sender(self, organisation_id: int, to: str, sender: str) -> str:
        """The same for the answer to a message that `to` wrote to `sender`. Whoever has opted out and writes
        nevertheless is answered.

        Raises Refusal, Unavailable.
        """
        return self._senders.reply_sender(organisation_id, to, sender)

    async def refresh(self) -> None:
        """Look once what has changed."""
        await self._opt_outs.refresh()
        await self._senders.refresh()

    async def run(self) -> None:
        """Keep up with changes, until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._opt_outs.run())
            group.create_task(self._senders.run())
