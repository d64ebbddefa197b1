"""The routing plan in PostgreSQL. Redis has a copy of it (`engine.stores.redis.routing_copy`).

Under failure. A change is one transaction: it takes effect as a whole or not at all. After
`Unavailable` nobody knows which. Asking for the same again is safe; it changes nothing the second
time. Two changes at once are made one after the other, and the later one stays.

The copy lets a worker start while PostgreSQL is away. It is a sorted set of plans by version,
from which all but the newest are removed. A process that was frozen with an old plan adds it and
removes it again, and never overwrites a newer one. Killed in between: two plans are there until
the next one is put, and the newest is read. Redis loses the copy: every process that has a plan
puts it there again within a minute. PostgreSQL is set back to an older state: its version is then
lower than that of the copy until `DEL routing:plan`. Only a worker that starts while PostgreSQL is
away would notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.changes import difference
from engine.errors import Refusal
from engine.organisations import Drain, Pause
from engine.records import IdempotentCall, Queue
from engine.routing.records import Route, RoutingPlan
from engine.routing.routes import first_wrong
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import check_text
from engine.stores.postgres.idempotency import claim
from engine.stores.postgres.pool import Pool

THROUGHPUT_MIN, THROUGHPUT_MAX = 0.01, 1_000_000

_VERSION = "SELECT version FROM routing_version"
_LOCK = "SELECT routes_set FROM routing_version FOR UPDATE"
# One statement, so that version, routes and states belong together.
_READ = """
SELECT version,
    (SELECT coalesce(json_agg(json_build_object('prefix', prefix, 'sender', sender, 'queue', queue,
        'providers', providers, 'weights', weights, 'reroute', reroute)), '[]') FROM routes),
    (SELECT coalesce(json_agg(json_build_array(provider, paused, throughput)), '[]') FROM provider_states),
    (SELECT coalesce(json_agg(queue ORDER BY queue), '[]') FROM queue_pauses)
FROM routing_version"""
_REMOVE = """
DELETE FROM routes r WHERE NOT EXISTS (
    SELECT FROM unnest($1::text[], $2::text[], $3::text[]) AS kept (prefix, sender, queue)
    WHERE (kept.prefix, kept.sender, kept.queue) = (r.prefix, r.sender, r.queue))"""
# A route that does not change keeps its `changed_at`.
_WRITE = """
INSERT INTO routes (prefix, sender, queue, providers, weights, reroute) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (prefix, sender, queue) DO UPDATE
SET providers = EXCLUDED.providers, weights = EXCLUDED.weights, reroute = EXCLUDED.reroute, changed_at = now()
WHERE (routes.providers, routes.weights, routes.reroute)
    IS DISTINCT FROM (EXCLUDED.providers, EXCLUDED.weights, EXCLUDED.reroute)"""
_ROUTES_SET = "UPDATE routing_version SET version = version + 1, routes_set = true"
_PAUSE = """
INSERT INTO provider_states (provider, paused, pause_reason) VALUES ($1, $2, $3)
ON CONFLICT (provider) DO UPDATE
SET paused = EXCLUDED.paused, pause_reason = EXCLUDED.pause_reason, changed_at = now()"""
_PROVIDER_PAUSES = (
    "SELECT provider, paused_at, pause_reason FROM provider_states WHERE paused ORDER BY provider"
)
_LIMIT = """
INSERT INTO provider_states (provider, throughput) VALUES ($1, $2)
ON CONFLICT (provider) DO UPDATE SET throughput = EXCLUDED.throughput, changed_at = now()"""
_QUEUE_PAUSES = "SELECT queue, paused_at, reason FROM queue_pauses"
# Whoever gives no reason keeps the one before.
_PAUSE_QUEUE = """
INSERT INTO queue_pauses (queue, reason) VALUES ($1, $2)
ON CONFLICT (queue) DO UPDATE SET reason = coalesce(nullif(EXCLUDED.reason, ''), queue_pauses.reason)"""
_RESUME_QUEUE = "DELETE FROM queue_pauses WHERE queue = $1"
_QUEUE_DRAINS = "SELECT queue, drained_at, reason FROM queue_drains"
_DRAIN_QUEUE = """
INSERT INTO queue_drains (queue, reason) VALUES ($1, $2)
ON CONFLICT (queue) DO UPDATE SET reason = coalesce(nullif(EXCLUDED.reason, ''), queue_drains.reason)"""
_END_DRAIN = "DELETE FROM queue_drains WHERE queue = $1"
_COUNT_UP = "UPDATE routing_version SET version = version + 1"

_encode = msgspec.json.Encoder().encode
_decode_routes = msgspec.json.Decoder(list[Route]).decode
_decode_states = msgspec.json.Decoder(list[tuple[str, bool, float | None]]).decode
_decode_queues = msgspec.json.Decoder(list[Queue]).decode


class Routing:
    """Reads and changes the plan in PostgreSQL. Every call raises Unavailable."""

    def __init__(self, pool: Pool, provider_names: Sequence[str] = ()) -> None:
        """`provider_names`: the configured ones, which routes may name. Reading needs none."""
        self._pool = pool
        self._names = tuple(provider_names)

    async def version(self) -> int:
        """The present version; 0 when nothing was ever changed."""
        async with self._pool.connection() as connection:
            version: int = await connection.fetchval(_VERSION)
        return version

    async def read(self) -> RoutingPlan:
        """The present plan."""
        async with self._pool.connection() as connection:
            return await _read(connection)

    async def replace(self, routes: Sequence[Route], version: int | None = None) -> RoutingPlan:
        """Replace all routes by `routes`; returns the plan then. The same routes change nothing.

        Their order means nothing. `version`: replace only this version; None: any. Raises Refusal 422,
        which names the wrong field, and 409 when another version is there.
        """
        if wrong := first_wrong(routes, self._names):
            field, allowed = wrong
            raise Refusal("invalid_field", 422, f"`{field}` must be {allowed}.", field)
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            now = await _read(connection)
            if now.routes == _in_order(routes):
                return now
            if version not in (None, now.version):
                detail = f"The routing was changed meanwhile: version {now.version} stands, not {version}."
                raise Refusal("version_conflict", 409, detail, "version")
            plan = await _write(connection, routes)
            await note_change(connection, _without(now, plan), _without(plan, now))
            return plan

    async def seed(self, routes: Sequence[Route]) -> bool:
        """Set the routes if they were never set before; whether this call did."""
        async with self._pool.transaction() as connection:
            if await connection.fetchval(_LOCK) or not routes:
                return False
            await _write(connection, routes)
        return True

    async def set_paused(
        self, provider: str, paused: bool, reason: str = "", once: IdempotentCall | None = None
    ) -> RoutingPlan:
        """Pause a provider or let it go on; the plan then. Doing it again changes nothing but the reason.

        With `once` it is done at most once: when it is repeated later, and somebody has done the
        opposite meanwhile, that stays. Raises Refusal 404 for an unknown provider, 409 when `once`
        was used for another request, 422 for the reason.
        """
        self._check_known(provider)
        if reason:
            check_text("reason", reason)
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            done = await claim(connection, once) is not None
            before = (await _provider_pauses(connection)).get(provider)
            same = before is None if not paused else before is not None and reason in ("", before.reason)
            if not done and not same:
                await connection.execute(_PAUSE, provider, paused, reason)
                after = (await _provider_pauses(connection)).get(provider)
                await note_change(connection, {"pause": before}, {"pause": after})
                if (before is None) == paused:
                    await connection.execute(_COUNT_UP)
            return await _read(connection)

    async def provider_pauses(self) -> dict[str, Pause]:
        """The providers that are paused, by name."""
        async with self._pool.connection() as connection:
            return await _provider_pauses(connection)

    async def pause_queue(
        self, queue: Queue, reason: str | None, once: IdempotentCall | None = None
    ) -> Pause | None:
        """Pause a queue for `reason`, or with None let it go on; its pause then, None: it has none.

        What lets it go on ends its drain, too. Doing it again changes nothing but the reason. `once` as in
        `set_paused`. Raises Refusal 409 when `once` was used for another request, 422 for the reason.
        """
        if reason:
            check_text("reason", reason)
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            if await claim(connection, once) is None:
                before, drains = await _queue_pauses(connection), await _queue_drains(connection)
                if reason is not None:
                    await connection.execute(_PAUSE_QUEUE, queue, reason)
                else:
                    await connection.execute(_RESUME_QUEUE, queue)
                    await connection.execute(_END_DRAIN, queue)
                if (queue in before) != (reason is not None):
                    await connection.execute(_COUNT_UP)
                was = {"pause": before.get(queue), "drain": drains.get(queue)}
                now = {
                    "pause": (await _queue_pauses(connection)).get(queue),
                    "drain": (await _queue_drains(connection)).get(queue),
                }
                if now != was:
                    await note_change(connection, *difference(was, now))
            return (await _queue_pauses(connection)).get(queue)

    async def drain_queue(
        self, queue: Queue, reason: str, once: IdempotentCall | None = None
    ) -> Drain | None:
        """Let a queue take no new messages, and deliver what waits; its drain then.

        Doing it again changes nothing but the reason. `once` as in `set_paused`; so it may have ended
        meanwhile: None. Raises Refusal 409 when the queue is paused, for then it delivers nothing, or `once`
        was used for another request; 422 for the reason.
        """
        if reason:
            check_text("reason", reason)
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            if await claim(connection, once) is None:
                if queue in await _queue_pauses(connection):
                    detail = f"The queue {queue} is paused, so it would never be empty; resume it first."
                    raise Refusal("queue_paused", 409, detail)
                before = (await _queue_drains(connection)).get(queue)
                await connection.execute(_DRAIN_QUEUE, queue, reason)
                drain = (await _queue_drains(connection)).get(queue)
                if drain != before:
                    await note_change(connection, {"drain": before}, {"drain": drain})
            return (await _queue_drains(connection)).get(queue)

    async def queue_drains(self) -> dict[Queue, Drain]:
        """The queues that are drained."""
        async with self._pool.connection() as connection:
            return await _queue_drains(connection)

    async def queue_states(self) -> tuple[dict[Queue, Pause], dict[Queue, Drain]]:
        """(the queues that are paused, those that are drained), by one connection."""
        async with self._pool.connection() as connection:
            return await _queue_pauses(connection), await _queue_drains(connection)

    async def queue_pauses(self) -> dict[Queue, Pause]:
        """The queues that are paused."""
        async with self._pool.connection() as connection:
            return await _queue_pauses(connection)

    async def set_throughput(self, provider: str, throughput: float | None) -> RoutingPlan:
        """Set a provider's throughput, segments a second; None: as configured. Returns the plan then.

        Doing it again changes nothing. Raises Refusal 404 for an unknown provider, 422 for the value.
        """
        self._check_known(provider)
        # The comparison is false for NaN, too.
        if throughput is not None and not THROUGHPUT_MIN <= throughput <= THROUGHPUT_MAX:
            allowed = f"from {THROUGHPUT_MIN} to {THROUGHPUT_MAX} segments a second, or null: as configured"
            raise Refusal("invalid_field", 422, f"`throughput` must be {allowed}.", "throughput")
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            now = await _read(connection)
            if now.throughput.get(provider) == throughput:
                return now
            await connection.execute(_LIMIT, provider, throughput)
            before = {"throughput": now.throughput.get(provider)}
            await note_change(connection, before, {"throughput": throughput})
            await connection.execute(_COUNT_UP)
            return await _read(connection)

    def _check_known(self, provider: str) -> None:
        if provider not in self._names:
            raise Refusal("not_found", 404, "There is no provider with this name in the configuration.")


async def _read(connection: Any) -> RoutingPlan:
    version, routes, states, queues = await connection.fetchrow(_READ)
    provider_states = _decode_states(states)
    return RoutingPlan(
        version=version,
        routes=_in_order(_decode_routes(routes)),
        paused=tuple(sorted(provider for provider, paused, _ in provider_states if paused)),
        paused_queues=tuple(_decode_queues(queues)),
        throughput={provider: rate for provider, _, rate in sorted(provider_states) if rate is not None},
    )


async def _provider_pauses(connection: Any) -> dict[str, Pause]:
    rows = await connection.fetch(_PROVIDER_PAUSES)
    return {provider: Pause(since=since, reason=reason) for provider, since, reason in rows}


async def _queue_pauses(connection: Any) -> dict[Queue, Pause]:
    rows = await connection.fetch(_QUEUE_PAUSES)
    return {queue: Pause(since=since, reason=reason) for queue, since, reason in rows}


async def _queue_drains(connection: Any) -> dict[Queue, Drain]:
    rows = await connection.fetch(_QUEUE_DRAINS)
    return {queue: Drain(since=since, reason=reason) for queue, since, reason in rows}


async def _write(connection: Any, routes: Sequence[Route]) -> RoutingPlan:
    columns = ([getattr(r, column) for r in routes] for column in ("prefix", "sender", "queue"))
    await connection.execute(_REMOVE, *columns)
    rows = [(r.prefix, r.sender, r.queue, r.providers, r.weights, r.reroute) for r in routes]
    await connection.executemany(_WRITE, rows)
    await connection.execute(_ROUTES_SET)
    return await _read(connection)


def _without(plan: RoutingPlan, other: RoutingPlan) -> dict[str, Any]:
    """The version of a plan, and its routes that the other does not have."""
    there = set(map(_encode, other.routes))
    return {"version": plan.version, "routes": [r for r in plan.routes if _encode(r) not in there]}


def _in_order(routes: Sequence[Route]) -> tuple[Route, ...]:
    """The routes in one fixed order, because their order means nothing."""
    return tuple(sorted(routes, key=lambda r: (r.prefix, r.sender, r.queue)))
