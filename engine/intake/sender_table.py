"""Service: who may use which senders and send where, as one ingest process knows it.

A process looks twice a second whether the version in PostgreSQL has changed, and reads what has. Nobody who
asks waits.

    PostgreSQL away             the rules last known stay; nobody can change them meanwhile
    away before any are known   Unavailable: no message is taken in
    PostgreSQL goes back        its version is lower, or it was away: everything is read anew
    frozen                      for half a second after it wakes, the process goes by the rules from before
"""

from __future__ import annotations

import structlog

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.intake.ports import SenderStore
from engine.intake.records import SenderRules
from engine.intake.sender_rules import DestinationRules, OwnRules

log = structlog.get_logger("senders")

_LOOK_S = 0.5
_NONE = SenderRules()


class SenderTable:
    """The rules that stand. Call `refresh` once before serving, then `run` until canceled."""

    def __init__(self, store: SenderStore, look_s: float = _LOOK_S) -> None:
        self._store = store
        self._look_s = look_s
        self._away = False
        # Those of organisations that have any.
        self._own: dict[int, OwnRules] = {}
        # None: nothing is known yet.
        self._destinations: DestinationRules | None = None
        self._version = 0

    def sender(self, organisation_id: int, to: str, sender: str) -> str:
        """The sender of a message to `to` that names `sender`, or "".

        Raises Refusal when it may not be sent so, Unavailable while nothing is known.
        """
        destinations = self._known()
        own = self._own.get(organisation_id)
        if own is not None:
            sender = own.sender(to, sender)
        destinations.check(to, sender)
        return sender

    def reply_sender(self, organisation_id: int, to: str, sender: str) -> str:
        """The same for the answer to a message that was written to `sender`: a route has made that number the
        organisation's, so no list of senders need have it."""
        destinations = self._known()
        own = self._own.get(organisation_id)
        if own is not None:
            own.check_destination(to)
        destinations.check(to, sender)
        return sender

    def are_free(self, organisation_id: int) -> bool:
        """Whether it is known that no rule holds for the messages of this organisation."""
        destinations = self._destinations
        return destinations is not None and destinations.are_none and organisation_id not in self._own

    def _known(self) -> DestinationRules:
        if self._destinations is None:
            raise Unavailable("It is not known yet who may use which sender.")
        return self._destinations

    async def refresh(self) -> None:
        """Look once what has changed. What cannot be read stays as it was."""
        since = 0 if self._away else self._version
        try:
            changes = await self._store.changes(since)
            if changes.version < since:
                since = 0
                changes = await self._store.changes(since)
            if self._destinations is None or self._away or changes.version != self._version:
                sheet = await self._store.destinations()
                self._destinations = DestinationRules(sheet.rules)
                log.info("sender rules known", version=changes.version, changed=len(changes.rules))
        except Unavailable as e:
            if not self._away:
                log.warning("sender rules cannot be looked up; the last known stay", reason=str(e))
            self._away = True
            return
        self._away = False
        if not since:
            self._own.clear()
        for organisation_id, rules in changes.rules.items():
            if rules == _NONE:
                self._own.pop(organisation_id, None)
            else:
                self._own[organisation_id] = OwnRules(rules)
        self._version = changes.version

    async def run(self) -> None:
        """Keep up with changes, until canceled."""
        while True:
            await next_tick(self._look_s)
            await self.refresh()
