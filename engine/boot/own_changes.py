"""Records what operators changed at the supervisor of this node: reloads and levels of the log.

The supervisor writes the last ones to run/processes.json, each with a number; `Recorder` adds those that are
not recorded yet. Killed, an answer lost, PostgreSQL away: the next look finds which are missing, and adds
each once.
"""

from __future__ import annotations

from engine.changes import ChangeUnderWay
from engine.errors import Unavailable
from engine.nodes.records import OwnChange, OwnNode
from engine.stores.postgres.changes import Changes

# In the record, in place of the name of a key: whoever may send signals to the supervisor.
SIGNAL = "signal"


class Recorder:
    """Of one node."""

    def __init__(self, node: str, changes: Changes) -> None:
        self._node = node
        self._changes = changes
        # When the supervisor started whose changes are recorded, and the number of the last one.
        self._recorded = (0, 0)

    async def record(self, own: OwnNode) -> None:
        """Add what is not recorded yet. When PostgreSQL is away, a later call does."""
        since_us, last = self._recorded
        for change in own.changes:
            if own.since_us == since_us and change.number <= last:
                continue
            try:
                await self._changes.add_once(self._record_of(own, change), change.outcome, change.at_us / 1e6)
            except Unavailable:
                return
            self._recorded = (own.since_us, change.number)

    def _record_of(self, own: OwnNode, change: OwnChange) -> ChangeUnderWay:
        record = ChangeUnderWay(
            key_id=None, key=SIGNAL, address=self._node, request_id=f"{own.since_us}-{change.number}",
            action=f"{change.action} /nodes/{{name}}", path=f"/nodes/{self._node}", organisation_id=None,
        )  # fmt: skip
        record.before, record.after = change.before or None, change.after or None
        return record
