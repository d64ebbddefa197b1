"""Messages that are canceled where they wait in Redis: `cancel` in functions/queue.

Each step is atomic. It takes a message out of the ready stream, the due set or its organisation's list, with
its units, or it leaves it alone. A worker is given only what is in the stream, so a message is canceled or
sent.

    killed before a step     nothing has happened
    killed after it          it is done, and recorded; nobody was told
    answer lost              nobody knows; done again, it finds nothing when it had been done
    the message moves on     between two steps it may go from its list to the stream, which each step looks
    meanwhile                through; what was not found in this round is looked for in the next
    Redis goes back          a message may wait again, as a settled one may
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from engine import bundle_format
from engine import redis_keys as keys
from engine.activity.records import CampaignPlace, CampaignStep, Cancellation
from engine.errors import Unavailable
from engine.records import QUEUES, Queue
from engine.shards import shard_of
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError

# Chunks of a list that one step looks at: around the likely one, and then those on both sides.
_LIKELY, _CHUNKS = 8, 50
# A chunk has at least about so many messages. At so many times one step looks in the due set.
_TOGETHER, _TIMES = 4, 50
# Messages of a due set that one step looks at, and how many in all, when it is not known when a message is
# due: those that an older version put off, which come back within the time, microseconds.
_PLACES, _PLACES_MAX = 500, 100_000
_PUT_OFF_US = 601_000_000
# Of a campaign: members of a due set and chunks of a list that one step looks at. A chunk has 8,000 octets
# and one message more.
_CAMPAIGN_COUNTS = {"due": 500, "list": 10, "ready": 0}
# The number of a way whose list is meant; "": the one behind the ready stream.
Way = int | Literal[""]
# Behind all that is due, and the last chunk of a list.
_BEGIN = {"due": ("+inf", "0", ""), "list": ("1000000000000000",), "ready": ()}
_NEXT: dict[str, Literal["list", "ready"]] = {"due": "list", "list": "ready"}


class IdRange(msgspec.Struct, frozen=True):
    """What one step looks for: the messages of an organisation in a queue, from one id to another."""

    queue: Queue
    organisation_id: int
    first: str
    last: str
    # Where in the list they are likely: where one that was accepted with this id would be.
    near: str


class RedisCancels:
    """The port `CancelStore`. Every call raises Unavailable."""

    def __init__(self, link: RedisLink, shards: int, now_us: Callable[[], int]) -> None:
        self._link = link
        self._shards = shards
        self._now_us = now_us

    async def cancel(
        self,
        queue: Queue,
        organisation_id: int,
        first: str,
        last: str,
        count: int,
        *,
        near: str,
        due_at_us: Sequence[int],
        far: bool,
    ) -> Cancellation:
        """See `CancelStore.cancel`."""
        range_ = IdRange(queue, organisation_id, first, last, near)
        found = Cancellation()
        for place in range(_TIMES, len(due_at_us), _TIMES):
            await self._step(found, range_, due_at_us=due_at_us[place : place + _TIMES])
        due_at_us, chunks = due_at_us[:_TIMES], max(_LIKELY, count // _TOGETHER)
        lists = await self._step(found, range_, due_at_us=due_at_us, chunks=chunks)
        if not far:
            return found
        for way, list_first, list_last, low, high in lists:
            for chunk in _outward(list_first, list_last, low, high):
                if len(found) >= count:
                    return found
                await self._step(found, range_, chunk=chunk, chunks=_CHUNKS, way=way)
        key, until = (
            keys.due_key(shard_of(organisation_id, self._shards), queue),
            self._now_us() + _PUT_OFF_US,
        )
        due = min(_PLACES_MAX, (await self._all([("ZCOUNT", key, "-inf", until)]))[0])
        # From behind, because what comes due meanwhile leaves in front.
        for place in range((due - 1) // _PLACES * _PLACES, -1, -_PLACES):
            if len(found) >= count:
                break
            await self._step(found, range_, place=place, places=_PLACES)
        return found

    async def cancel_campaign(
        self, organisation_id: int, campaign: str, place: CampaignPlace
    ) -> CampaignStep:
        """See `CancelStore.cancel_campaign`."""
        shard = shard_of(organisation_id, self._shards)
        (reply,) = await self._all([cancel_campaign(shard, organisation_id, campaign, place, self._now_us())])
        canceled, units, in_hand, before, at = reply
        found = Cancellation(
            {i.decode() for i in canceled}, {i.decode() for i in in_hand}, {i.decode() for i in before}
        )
        return CampaignStep(found=found, units=units, next=_following(place, tuple(a.decode() for a in at)))

    async def _step(
        self,
        found: Cancellation,
        range_: IdRange,
        *,
        chunk: int | None = None,
        chunks: int = 1,
        place: int = 0,
        places: int = 0,
        due_at_us: Sequence[int] = (),
        way: Way = "",
    ) -> list[tuple[Way, int, int, int, int]]:
        """One call of the function; what it did is added to `found`. Returns of each list that was looked at
        its way, the first and the last chunk of it, and the first and the last that was looked at."""
        command = cancel(
            shard_of(range_.organisation_id, self._shards), range_, self._now_us(),
            chunk=chunk, chunks=chunks, place=place, places=places, due_at_us=due_at_us, way=way,
        )  # fmt: skip
        (reply,) = await self._all([command])
        canceled, in_hand, before, first, last, low, high, put_off = reply
        found.canceled.update(map(bytes.decode, canceled))
        found.in_hand.update(map(bytes.decode, in_hand))
        found.given_before.update(map(bytes.decode, before))
        return [(way, first, last, low, high), *map(tuple, put_off)]

    async def _all(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._link.batch(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis refuses: {reply}.") from reply
        return replies


def cancel_campaign(
    shard: int, organisation_id: int, campaign: str, place: CampaignPlace, now_us: int
) -> Command:
    """Cancel what of a campaign waits at a place; reply: see `cancel_campaign` in functions/queue."""
    touched = _touched(shard, place.queue)
    return (
        "FCALL", versioned("cancel_campaign"), len(touched), *touched,
        place.queue, organisation_id, campaign, now_us, bundle_format.MESSAGES_MAX,
        place.where, _CAMPAIGN_COUNTS[place.where], *(place.at or _BEGIN[place.where]),
    )  # fmt: skip


def _following(place: CampaignPlace, at: tuple[str, ...]) -> CampaignPlace | None:
    """Where a walk goes on when a step at `place` answered `at`."""
    if at:
        return CampaignPlace(queue=place.queue, where=place.where, at=at)
    if place.where in _NEXT:
        return CampaignPlace(queue=place.queue, where=_NEXT[place.where])
    later = QUEUES[QUEUES.index(place.queue) + 1 :]
    return CampaignPlace(queue=later[0]) if later else None


def _touched(shard: int, queue: Queue) -> tuple[bytes, ...]:
    """The keys of `cancel` in functions/queue."""
    return (
        *keys.line_keys(shard, queue), keys.due_key(shard, queue), keys.activity_key(shard),
        keys.usage_key(shard), keys.usage_head_key(shard), keys.held_key(shard), keys.held_by_key(shard),
    )  # fmt: skip


def cancel(
    shard: int,
    range_: IdRange,
    now_us: int,
    *,
    chunk: int | None,
    chunks: int,
    place: int,
    places: int,
    due_at_us: Sequence[int],
    way: Way = "",
) -> Command:
    """Cancel what is found in one step; reply: see `cancel` in functions/queue. `chunk`: None for the likely
    one, of each list; else of the list of `way`."""
    queue = range_.queue
    touched = _touched(shard, queue)
    return (
        "FCALL", versioned("cancel"), len(touched), *touched,
        queue, range_.organisation_id, range_.first, range_.last, now_us, bundle_format.MESSAGES_MAX,
        range_.near, "" if chunk is None else chunk, chunks, place, places, way, *due_at_us,
    )  # fmt: skip


def _outward(first: int, last: int, low: int, high: int) -> Iterator[int]:
    """Where to look next in a list whose chunks are from `first` to `last`, and of which `low` to `high` were
    looked at: the nearer side first."""
    while low > first or high < last:
        if high < last:
            yield high + 1
            high += _CHUNKS
        if low > first:
            low -= _CHUNKS
            yield low
