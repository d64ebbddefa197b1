"""Endpoints of organisations, and what their organisations ask of kept deliveries, in PostgreSQL.

Under failure: as `engine.stores.postgres.directory`. A secret is shown by the call that makes it and by no
other; when that answer was lost, the secret is rotated.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from engine.errors import Refusal
from engine.hosts.webhook_urls import ALLOWED, names_private_address, target_of
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import exists_in, no_organisation
from engine.stores.postgres.pool import Pool
from engine.webhooks.events import EVENT_TYPES
from engine.webhooks.ports import EndpointChanges
from engine.webhooks.records import DeliveryState, Endpoint, ShownDelivery, ShownEndpoint
from engine.webhooks.signing import SECRET_OCTETS, shown

ENDPOINTS_MAX = 20
OVERLAP_S_MAX = 30 * 86_400
# A notifier that PostgreSQL answers knows a new secret after so long at most, seconds: see `endpoint_table`.
# Until then it may sign with the one before alone, so that is good for no less.
_KNOWN_AFTER_S = 3.0
# Deliveries that are replayed in one statement, and by one call.
_REPLAY_STEP, REPLAY_MAX = 5_000, 50_000

_LOCK = "SELECT version FROM webhooks_version FOR UPDATE"
_COUNT_UP = """
UPDATE webhooks_version
SET version = greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint)
RETURNING version"""
_CHANGES = """
SELECT v.version, e.id, e.organisation_id, e.url, e.secret, e.removed_at IS NOT NULL,
    e.previous_secret, coalesce(extract(epoch FROM e.previous_until), 0)::float8, e.events
FROM webhooks_version v LEFT JOIN webhook_endpoints e ON e.version > $1 AND ($1 > 0 OR e.removed_at IS
NULL)"""
_CALLBACK = """
SELECT id, organisation_id, url, secret, previous_secret, coalesce(extract(epoch FROM previous_until),
0)::float8 FROM webhook_endpoints WHERE organisation_id = $1 AND url = '' AND removed_at IS NULL"""
_ADD = """
INSERT INTO webhook_endpoints (organisation_id, url, secret, version, events) VALUES ($1, $2, $3, $4, $5)
RETURNING id, url, created_at, NULL::timestamptz, events"""
_OF = """
SELECT id, url, created_at, CASE WHEN previous_until > now() THEN previous_until END, events
FROM webhook_endpoints WHERE organisation_id = $1 AND removed_at IS NULL ORDER BY id"""
_ONE = """
SELECT url FROM webhook_endpoints WHERE organisation_id = $1 AND id = $2 AND removed_at IS NULL"""
_REMOVE = "UPDATE webhook_endpoints SET removed_at = now(), version = $2 WHERE id = $1"
_FAIL_ALL = """
UPDATE webhook_deliveries SET failed_at = now(), last_reason = 'endpoint-removed'
WHERE endpoint_id = $1 AND organisation_id = $2 AND failed_at IS NULL"""
# A secret that is replaced before its rotation is over was never in use: the older one stays, so that an
# answer that was lost costs nothing.
_ROTATE = """
UPDATE webhook_endpoints SET
    previous_secret = CASE WHEN previous_until > now() THEN previous_secret ELSE secret END,
    previous_until = CASE WHEN previous_until > now() AND $3 > 0
        THEN greatest(previous_until, now() + make_interval(secs => $3::float8))
        ELSE now() + make_interval(secs => greatest($3::float8, $5::float8)) END,
    secret = $2, version = $4
WHERE id = $1
RETURNING id, url, created_at, CASE WHEN previous_until > now() THEN previous_until END, events"""
_EVENTS = "SELECT events FROM webhook_endpoints WHERE id = $1"
_SET_EVENTS = """
UPDATE webhook_endpoints SET events = $2, version = $3 WHERE id = $1
RETURNING id, url, created_at, CASE WHEN previous_until > now() THEN previous_until END, events"""
_PAGE = """
SELECT id, failed_at IS NULL AS waits, event_id, type, url, event_at, attempts, due_at, failed_at,
last_status,
    last_reason
FROM webhook_deliveries WHERE organisation_id = $1 AND id < $2 AND ($3::boolean IS NULL OR (failed_at IS
NULL) = $3) ORDER BY id DESC LIMIT $4"""
_DELIVERY = """
SELECT id, failed_at IS NULL AS waits, event_id, type, url, event_at, attempts, due_at, failed_at,
last_status,
    last_reason
FROM webhook_deliveries WHERE organisation_id = $1 AND id = $2"""
_REPLAY = """
UPDATE webhook_deliveries SET attempts = CASE WHEN failed_at IS NULL THEN attempts ELSE 0 END, kept_at =
now(),
    due_at = now(), failed_at = NULL
WHERE organisation_id = $1 AND id = $2"""
_REPLAY_SINCE = """
UPDATE webhook_deliveries SET attempts = 0, kept_at = now(), due_at = now(), failed_at = NULL WHERE id IN (
    SELECT d.id FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
    WHERE d.organisation_id = $1 AND d.failed_at >= $2 AND e.removed_at IS NULL ORDER BY d.id LIMIT $3)"""


class NewEndpoint(msgspec.Struct, frozen=True):
    """An endpoint, with the secret that is shown this once."""

    endpoint: ShownEndpoint
    secret: str


class EndpointBook:
    """The endpoints, and the deliveries that are kept. Every call raises Unavailable."""

    def __init__(self, pool: Pool, *, allow_private: bool = False) -> None:
        """`allow_private`: whether a URL may name an address that is not public."""
        self._pool = pool
        self._allow_private = allow_private

    # -- for the notifiers

    async def changes(self, since: int) -> EndpointChanges:
        """See `engine.webhooks.ports.EndpointStore`."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_CHANGES, since)
        found = [row for row in rows if row[1] is not None]
        return EndpointChanges(
            rows[0][0],
            [_endpoint(*row[1:5], *row[6:]) for row in found if not row[5]],
            [row[1] for row in found if row[5]],
        )

    async def callback_endpoint(self, organisation_id: int) -> Endpoint | None:
        """See `engine.webhooks.ports.EndpointStore`. Two that make it at once find one."""
        async with self._pool.transaction() as connection:
            version = await _locked(connection)
            if not await exists_in(connection, organisation_id):
                return None
            row = await connection.fetchrow(_CALLBACK, organisation_id)
            if row is not None:
                return _endpoint(*row)
            secret = secrets.token_bytes(SECRET_OCTETS)
            made = await connection.fetchrow(_ADD, organisation_id, "", secret, version, None)
            return _endpoint(made[0], organisation_id, "", secret)

    # -- for organisations

    async def endpoints(self, organisation_id: int) -> list[ShownEndpoint]:
        """Those of an organisation, the oldest first. Raises Refusal 404."""
        async with self._pool.connection() as connection:
            found = [_shown(row) for row in await connection.fetch(_OF, organisation_id)]
            if not found and not await exists_in(connection, organisation_id):
                raise no_organisation()
        return found

    async def create(
        self, organisation_id: int, url: str, events: Sequence[str] | None = None
    ) -> NewEndpoint:
        """One more endpoint, that is told of these types of events; None: of all. Raises Refusal 404, 409
        when there is one with this URL or there are too many, 422."""
        types = _types(events)
        target = target_of(url)
        if target is None:
            raise _invalid("url", ALLOWED)
        if not self._allow_private and names_private_address(target):
            raise _invalid("url", "on the Internet: webhooks do not go to private addresses")
        secret = secrets.token_bytes(SECRET_OCTETS)
        async with self._pool.transaction() as connection:
            version = await _locked(connection)
            present = await connection.fetch(_OF, organisation_id)
            if not present and not await exists_in(connection, organisation_id):
                raise no_organisation()
            # The one without a URL has the secret of callback URLs.
            if sum(1 for one in present if one["url"]) >= ENDPOINTS_MAX:
                raise Refusal(
                    "too_many_endpoints", 409, f"An organisation has at most {ENDPOINTS_MAX} endpoints."
                )
            try:
                row = await connection.fetchrow(_ADD, organisation_id, url, secret, version, types)
            except asyncpg.UniqueViolationError as e:
                detail = "There is an endpoint with this `url` already."
                raise Refusal("endpoint_exists", 409, detail, "url") from e
            await note_change(connection, None, {"url": url, "events": types})
        return NewEndpoint(_shown(row), shown(secret))

    async def set_events(
        self, organisation_id: int, endpoint_id: int, events: Sequence[str] | None
    ) -> ShownEndpoint:
        """Tell this endpoint of these types of events alone; None: of all. Raises Refusal 404, 422."""
        types = _types(events)
        async with self._pool.transaction() as connection:
            version = await _locked(connection)
            if not await _url(connection, organisation_id, endpoint_id):
                raise _no_endpoint()
            before = await connection.fetchval(_EVENTS, endpoint_id)
            row = await connection.fetchrow(_SET_EVENTS, endpoint_id, types, version)
            if before != types:
                await note_change(connection, {"events": before}, {"events": types})
        return _shown(row)

    async def remove(self, organisation_id: int, endpoint_id: int) -> None:
        """Tell this endpoint nothing more; what waits for it has failed. Raises Refusal 404."""
        async with self._pool.transaction() as connection:
            version = await _locked(connection)
            url = await _url(connection, organisation_id, endpoint_id)
            await connection.execute(_REMOVE, endpoint_id, version)
            await connection.execute(_FAIL_ALL, endpoint_id, organisation_id)
            await note_change(connection, {"url": url}, {"url": None})

    async def rotate(self, organisation_id: int, endpoint_id: int | None, overlap_s: float) -> NewEndpoint:
        """A new secret; the present one signs as well for `overlap_s` seconds more, three at least. None: of
        the endpoint that stands for callback URLs. Raises Refusal 404, 422."""
        if not 0 <= overlap_s <= OVERLAP_S_MAX:
            raise _invalid("overlap_s", f"from 0 to {OVERLAP_S_MAX} seconds")
        if endpoint_id is None:
            made = await self.callback_endpoint(organisation_id)
            if made is None:
                raise no_organisation()
            endpoint_id = made.id
        secret = secrets.token_bytes(SECRET_OCTETS)
        async with self._pool.transaction() as connection:
            version = await _locked(connection)
            url = await _url(connection, organisation_id, endpoint_id)
            row = await connection.fetchrow(_ROTATE, endpoint_id, secret, overlap_s, version, _KNOWN_AFTER_S)
            await note_change(connection, {"url": url}, {"url": url, "secret": "rotated"})
        return NewEndpoint(_shown(row), shown(secret))

    async def check(self, organisation_id: int, endpoint_id: int) -> None:
        """Raises Refusal 404 when the organisation has no such endpoint with a URL."""
        async with self._pool.connection() as connection:
            if not await _url(connection, organisation_id, endpoint_id):
                raise _no_endpoint()

    async def deliveries(
        self, organisation_id: int, state: DeliveryState | None, before_id: int, limit: int
    ) -> list[ShownDelivery]:
        """At most `limit` kept deliveries with ids below `before_id`, the newest first; None: in either
        state."""
        waits = None if state is None else state == "waiting"
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_PAGE, organisation_id, before_id, waits, limit)
        return [_delivery(row) for row in rows]

    async def replay(self, organisation_id: int, delivery_id: int) -> ShownDelivery:
        """Make a delivery again, now; its schedule begins anew when it has failed. Raises Refusal 404."""
        async with self._pool.transaction() as connection:
            await connection.execute(_REPLAY, organisation_id, delivery_id)
            row = await connection.fetchrow(_DELIVERY, organisation_id, delivery_id)
            if row is None:
                detail = "There is no such delivery: it was made, or it failed more than 30 days ago."
                raise Refusal("not_found", 404, detail)
            await note_change(connection, None, {"delivery": delivery_id})
        return _delivery(row)

    async def replay_since(self, organisation_id: int, since: datetime) -> int:
        """Make all deliveries again that have failed since then, at most REPLAY_MAX; how many."""
        replayed = 0
        while replayed < REPLAY_MAX:
            async with self._pool.transaction() as connection:
                status = await connection.execute(_REPLAY_SINCE, organisation_id, since, _REPLAY_STEP)
                count = int(status.rpartition(" ")[2])
                if not replayed:
                    await note_change(connection, None, {"since": since})
            replayed += count
            if count < _REPLAY_STEP:
                break
        return replayed


def _endpoint(
    endpoint_id: int,
    organisation_id: int,
    url: str,
    secret: bytes,
    previous: bytes | None = None,
    until_s: float = 0.0,
    events: Sequence[str] | None = None,
) -> Endpoint:
    return Endpoint(
        id=endpoint_id, organisation_id=organisation_id, url=url, secret=secret, previous=previous,
        previous_until_s=until_s, events=None if events is None else frozenset(events),
    )  # fmt: skip


def _types(events: Sequence[str] | None) -> list[str] | None:
    """The types as they are kept. Raises Refusal 422."""
    if events is None:
        return None
    if not events or not set(events) <= set(EVENT_TYPES):
        known = ", ".join(EVENT_TYPES)
        raise _invalid("events", f"one or more of {known}; or null, for all")
    return sorted(set(events))


async def _locked(connection: Any) -> int:
    """A version for this transaction; others that change endpoints wait for it."""
    await connection.execute(_LOCK)
    version: int = await connection.fetchval(_COUNT_UP)
    return version


async def _url(connection: Any, organisation_id: int, endpoint_id: int) -> str:
    url: str | None = await connection.fetchval(_ONE, organisation_id, endpoint_id)
    if url is None:
        raise _no_endpoint()
    return url


def _no_endpoint() -> Refusal:
    return Refusal("not_found", 404, "The organisation has no endpoint with this id.")


def _invalid(field: str, allowed: str) -> Refusal:
    return Refusal("invalid_field", 422, f"`{field}` must be {allowed}.", field)


def _shown(row: Any) -> ShownEndpoint:
    endpoint_id, url, at, until, events = row
    return ShownEndpoint(
        id=endpoint_id,
        url=url or None,
        created_at=at,
        previous_secret_until=until,
        events=None if events is None else tuple(events),
    )


def _delivery(row: Any) -> ShownDelivery:
    waits = row["waits"]
    return ShownDelivery(
        id=row["id"],
        state="waiting" if waits else "failed",
        event_id=row["event_id"],
        type=row["type"],
        url=row["url"],
        event_at=row["event_at"],
        attempts=row["attempts"],
        next_attempt_at=row["due_at"] if waits else None,
        failed_at=row["failed_at"],
        last_status=row["last_status"] or None,
        last_reason=row["last_reason"],
    )
