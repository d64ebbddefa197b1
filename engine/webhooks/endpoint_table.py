"""Service: the endpoints that stand, as one notifier knows them.

It looks once a second whether the version in PostgreSQL has changed, and reads what has.

    PostgreSQL away             the endpoints last known stay
    away before any are known   `refresh` raises, and the notifier reads no events yet
    PostgreSQL goes back        its version is lower: everything is read anew
    an endpoint made or removed it counts for events that are read from then on, within about a second
"""

from __future__ import annotations

import asyncio

import structlog

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.webhooks.ports import EndpointStore
from engine.webhooks.records import Endpoint

log = structlog.get_logger("notifier")

_LOOK_S = 1.0


class EndpointTable:
    """The endpoints. Call `refresh` once, then `run` until canceled."""

    def __init__(self, store: EndpointStore) -> None:
        self._store = store
        self._by_id: dict[int, Endpoint] = {}
        # Those with a URL, by organisation.
        self._of: dict[int, dict[int, Endpoint]] = {}
        # Those that stand for callback URLs, by organisation.
        self._callbacks: dict[int, Endpoint] = {}
        self._version = 0

    @property
    def organisations(self) -> list[int]:
        """The organisations that have an endpoint."""
        return list(self._of)

    def has_any(self, organisation_id: int) -> bool:
        """Whether the organisation has an endpoint with a URL."""
        return organisation_id in self._of

    def of(self, organisation_id: int) -> list[Endpoint]:
        """The endpoints of an organisation that have a URL."""
        return list(self._of.get(organisation_id, {}).values())

    def endpoint(self, endpoint_id: int) -> Endpoint | None:
        """The endpoint with this id; None: it was removed."""
        return self._by_id.get(endpoint_id)

    async def callback_endpoint(self, organisation_id: int) -> Endpoint | None:
        """The endpoint whose secrets sign what goes to callback URLs; it is made when there is none yet.

        None: there is no such organisation. Raises Unavailable.
        """
        known = self._callbacks.get(organisation_id)
        if known is None:
            known = await self._store.callback_endpoint(organisation_id)
            if known is not None:
                self._put(known)
        return known

    async def refresh(self) -> None:
        """Look once whether endpoints have changed. Raises Unavailable."""
        since = self._version
        changes = await self._store.changes(since)
        if changes.version < since:
            since = 0
            changes = await self._store.changes(0)
        if not since:
            self._by_id.clear()
            self._of.clear()
            self._callbacks.clear()
        for endpoint_id in changes.removed:
            self._remove(endpoint_id)
        for endpoint in changes.changed:
            self._put(endpoint)
        self._version = changes.version

    async def run(self) -> None:
        """Keep up with changes, until canceled."""
        away = False
        while True:
            await next_tick(_LOOK_S)
            try:
                async with asyncio.timeout(2 * _LOOK_S):
                    await self.refresh()
                away = False
            except (Unavailable, TimeoutError) as e:
                if not away:
                    log.warning(
                        "endpoints cannot be looked up; the last known stay", reason=str(e) or "no answer"
                    )
                away = True

    def _put(self, endpoint: Endpoint) -> None:
        self._by_id[endpoint.id] = endpoint
        if endpoint.url:
            self._of.setdefault(endpoint.organisation_id, {})[endpoint.id] = endpoint
        else:
            self._callbacks[endpoint.organisation_id] = endpoint

    def _remove(self, endpoint_id: int) -> None:
        endpoint = self._by_id.pop(endpoint_id, None)
        if endpoint is None:
            return
        if not endpoint.url:
            self._callbacks.pop(endpoint.organisation_id, None)
            return
        rest = self._of.get(endpoint.organisation_id, {})
        rest.pop(endpoint_id, None)
        if not rest:
            self._of.pop(endpoint.organisation_id, None)
