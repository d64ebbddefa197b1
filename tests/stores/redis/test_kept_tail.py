"""What a look-up has read of the tail of a stream serves the next one, and nothing is missing or stale."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest

from engine.activity.records import ActivityEntry
from engine.redis_keys import activity_key
from engine.stores.redis import kept_tail
from engine.stores.redis.kept_tail import KeptOctets, KeptTail
from engine.stores.redis.link import RedisLink
from engine.stream_id import StreamId
from tests.conftest import own_database

_DATABASE = 10
_PAGE = 5
_KEY = activity_key(0)


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, _DATABASE) as link:
        yield link


class Stream:
    """A stream in Redis, and how many entries were read of it."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self.read = 0

    async def look(self, start: StreamId) -> tuple[list[ActivityEntry], list[ActivityEntry]]:
        first = await self._page("-", 1)
        page = await self._page(str(start), _PAGE)
        self.read += len(page)
        return first, page

    async def _page(self, start: str, count: int) -> list[ActivityEntry]:
        found = await self._link.call("XRANGE", _KEY, start, "+", "COUNT", count)
        return [ActivityEntry(shard=0, id=StreamId.parse(i), blob=fields[1]) for i, fields in found]

    async def all(self, start: StreamId) -> list[ActivityEntry]:
        return await self._page(str(start), 10_000)


@pytest.mark.parametrize("seed", range(4))
async def test_it_gives_all_that_the_stream_has_whatever_came_and_went(link: RedisLink, seed: int) -> None:
    rng, stream = Random(seed), Stream(link)
    tail = KeptTail(stream.look, _PAGE, KeptOctets())
    at_ms = 1000
    for _ in range(60):
        for _ in range(rng.choice((0, 0, 1, 3, 12))):
            at_ms += rng.randrange(3)
            last = await link.call("XREVRANGE", _KEY, "+", "-", "COUNT", 1)
            following = str(StreamId.parse(last[0][0]).next) if last else "0-1"
            entry_id = max(StreamId(at_ms, 0), StreamId.parse(following))
            await link.call("XADD", _KEY, str(entry_id), "b", b"x" * rng.randrange(1, 50))
        if rng.random() < 0.4:
            await link.call("XTRIM", _KEY, "MAXLEN", "=", rng.randrange(20))
        if rng.random() < 0.03:
            # Redis lost its data, and its clock is behind.
            await link.call("DEL", _KEY)
            at_ms -= rng.choice((0, 3, 300))
        start = StreamId(max(0, at_ms - rng.choice((2, 5, 500, 2000))), 0)
        assert await tail.since(start) == await stream.all(start)


async def test_the_next_look_up_reads_only_what_was_added(link: RedisLink) -> None:
    stream = Stream(link)
    tail = KeptTail(stream.look, _PAGE, KeptOctets())
    await link.batch([("XADD", _KEY, f"{n}-1", "b", b"x") for n in range(1, 102)])
    assert len(await tail.since(StreamId(0, 0)) or ()) == 101
    assert stream.read < 101 * 5 / 4 + 2
    stream.read = 0
    await link.batch([("XADD", _KEY, f"{n}-1", "b", b"x") for n in range(200, 203)])
    assert len(await tail.since(StreamId(50, 0)) or ()) == 55
    assert stream.read == 4


async def test_a_tail_that_is_too_large_is_not_kept(link: RedisLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_tail, "BYTES_MAX", 100)
    stream = Stream(link)
    tail = KeptTail(stream.look, _PAGE, KeptOctets())
    await link.batch([("XADD", _KEY, f"{n}-1", "b", b"x" * 10) for n in range(1, 40)])
    assert await tail.since(StreamId(0, 0)) is None
    assert stream.read < 20
    await link.call("XTRIM", _KEY, "MAXLEN", "=", 3)
    assert await tail.since(StreamId(0, 0)) == await stream.all(StreamId(0, 0))


async def test_several_tails_have_their_bound_together(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_tail, "BYTES_MAX", 100)
    together = KeptOctets()
    small, large = (KeptTail(Stream(link).look, _PAGE, together) for _ in range(2))
    await link.batch([("XADD", _KEY, f"{n}-1", "b", b"x" * 10) for n in range(1, 7)])
    assert len(await small.since(StreamId(0, 0)) or ()) == 6
    assert await large.since(StreamId(0, 0)) is None
    assert (len(small.begin), len(large.begin), together.now) == (6, 0, 60)
    await link.call("XTRIM", _KEY, "MAXLEN", "=", 4)
    assert len(await small.since(StreamId(0, 0)) or ()) == 4
    assert len(await large.since(StreamId(0, 0)) or ()) == 4
    assert together.now == 80


async def test_a_tail_that_was_read_from_its_midst_says_nothing_of_the_begin(link: RedisLink) -> None:
    tail = KeptTail(Stream(link).look, _PAGE, KeptOctets())
    await link.batch([("XADD", _KEY, f"{n}-1", "b", b"x") for n in range(1, 20)])
    await tail.since(StreamId(10, 0))
    assert tail.begin == []
    await link.call("XTRIM", _KEY, "MAXLEN", "=", 7)
    await tail.since(StreamId(10, 0))
    assert [entry.id.ms for entry in tail.begin] == list(range(13, 20))
