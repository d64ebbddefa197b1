"""What the notifier asks of Redis, PostgreSQL, ClickHouse and of the client that posts.

Every coroutine here ends within the time of its adapter, or raises Unavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from engine.hosts.webhook_urls import Target
from engine.stream_id import StreamId
from engine.webhooks.records import Delivery, Endpoint, MadeDelivery
from engine.webhooks.recoveries import Origin

# Called once for each request: the HTTP status, 0 when no whole answer came, and a word for why not.
Posted = Callable[[int, str], None]


class Settled(NamedTuple):
    """How far the two streams of a shard are read, or settled."""

    activity: StreamId
    events: StreamId


class FoundEntry(NamedTuple):
    """An entry of either stream of a shard."""

    shard: int
    id: StreamId
    # Whether it is of the activity stream.
    activity: bool
    blob: bytes


class EndpointChanges(msgspec.Struct, frozen=True):
    """Endpoints that were made, changed or removed since a version."""

    # Goes up with each change.
    version: int
    changed: list[Endpoint]
    removed: list[int]


class DueTarget(NamedTuple):
    """The kept deliveries of an organisation to one origin."""

    shard: int
    organisation_id: int
    origin: str
    # How long until the first of them is due, seconds; negative: it is.
    due_in_s: float


class WebhookStreams(Protocol):
    """The streams in Redis, and which notifier has which shard."""

    async def living(self, name: str, ttl_ms: int) -> list[str]:
        """Note that this notifier lives for `ttl_ms` more; the names of all that do, in their order."""

    async def own(self, owner: str, shards: Sequence[int], ttl_ms: int) -> dict[int, Settled]:
        """Become or stay the owner of shards, where no other process is; how far each is settled."""

    async def give_back(self, owner: str, shards: Sequence[int]) -> None:
        """Let others have these shards at once, those that are `owner`'s."""

    async def leave(self, name: str) -> None:
        """This notifier lives no longer."""

    async def settle(self, owner: str, settled: Mapping[int, tuple[str, str]]) -> list[int]:
        """Note by shard how far activity and events are settled, "" for no change; the shards that are not
        `owner`'s any more."""

    async def note_made(self, made: Mapping[tuple[int, int], Iterable[MadeDelivery]]) -> None:
        """Note by shard and endpoint what was delivered, the newest last. The last `MADE_MAX` are kept."""

    async def read(
        self, read: Mapping[int, Settled], count: int, block_ms: int
    ) -> tuple[list[FoundEntry], dict[int, StreamId]]:
        """Up to `count` entries of each stream behind what was read; and by shard from where on the activity
        is kept, as it was after that."""


class ActivityLog(Protocol):
    """The activity that is archived."""

    async def rows_between(
        self, shard: int, after: StreamId, before: StreamId, organisations: Collection[int]
    ) -> tuple[list[tuple[StreamId, list[Any]]], StreamId | None]:
        """The first rows of a shard behind `after` and before `before` that are an event of these
        organisations or have a callback URL, with their places in the stream; and from where to go on, None:
        these are all."""


class EndpointStore(Protocol):
    """Where endpoints are kept."""

    async def changes(self, since: int) -> EndpointChanges:
        """What was changed after the version `since`; all of it after 0."""

    async def callback_endpoint(self, organisation_id: int) -> Endpoint | None:
        """The endpoint that stands for callback URLs; it is made when there is none. None: there is no such
        organisation."""


class DeliveryBook(Protocol):
    """Where deliveries are kept that could not be made at once."""

    async def keep(self, deliveries: Sequence[tuple[Delivery, float | None]]) -> None:
        """Keep each as one that waits so many seconds, or as failed (None). One that has a row changes it."""

    async def forget(self, row_ids: Sequence[int]) -> None:
        """These were delivered."""

    async def note_recoveries(self, takes: Mapping[Origin, bool]) -> None:
        """Whether each of these origins took the last delivery that was made to it."""

    async def due_targets(self, shards: Sequence[int]) -> list[DueTarget]:
        """Who has deliveries that wait in these shards."""

    async def claim(self, wanted: Sequence[tuple[DueTarget, int]], claim_s: float) -> list[Delivery]:
        """Up to so many due deliveries of each target. Nobody else has them for `claim_s` seconds."""

    async def tidy(self, shards: Sequence[int]) -> tuple[int, int]:
        """Give up what has waited too long, and delete what failed long ago; how many were given up, and how
        many wait."""


class Poster(Protocol):
    """Posts to any URL, with some connections for each origin of each organisation."""

    def post(self, organisation_id: int, target: Target, headers: bytes, body: bytes, done: Posted) -> None:
        """Begin one request; `done` is called once within the time-out, never from inside."""
