"""The line of a queue in Redis is fair between organisations, keeps order, and never idles."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import msgspec
import pytest
import structlog

from engine import redis_keys as keys
from engine.bundle_format import MESSAGES_MAX, payloads_of, records_of
from engine.clocks.store_clock import StoreClock
from engine.formats import FORMATS, note
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.audit_cut import instant_of
from engine.stores.redis.link import RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.pulse import Pulse
from engine.stores.redis.queue import QueueStreams
from engine.stores.redis.usage import _held_keys
from engine.stores.status import StatusReader
from tests.conftest import own_database
from tests.simulation.fair_load import SHARD, FairLoad, random_load

_DATABASE = 11
# Later than any test runs.
FAR_US = 1 << 60


@pytest.fixture
def url(redis_url: str) -> str:
    return redis_url.rpartition("/")[0] + f"/{_DATABASE}"


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, _DATABASE) as link:
        yield link


@pytest.mark.parametrize("seed", range(3))
async def test_organisations_with_a_backlog_are_within_one_message_of_a_fluid_server(
    link: RedisLink, seed: int
) -> None:
    load = FairLoad(link.batch, Random(seed))
    await random_load(load, Random(seed), 300, marks=(4, 4, 8) if seed % 2 else (16, 64, 100))
    assert load.broken == []
    assert load.waits > 30
    # Bundles are a part of the mark, and are settled in parts too.
    assert load.bundles == load.mark_max // 4
    assert (load.parts > 5) == (load.bundles > 1)


@pytest.mark.parametrize("takes", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_weights_that_change_and_pauses_keep_to_the_fluid_server_and_the_order(
    link: RedisLink, seed: int, takes: bool
) -> None:
    load = FairLoad(link.batch, Random(seed), takes=takes)
    marks = (4, 4, 8) if seed % 2 else (16, 64, 100)
    await random_load(load, Random(seed), 200, marks=marks, limits=True)
    assert load.broken == []
    assert load.waits > 30
    # All that waits is sent once nobody is paused.
    for organisation in list(load.paused):
        await load.limit(organisation, 1.0, paused=False)
    while any(load.waiting.values()):
        await load.refill(load.mark_max)
        await load.settle(await load.read(1000), load.mark_max)
    assert load.broken == []


async def test_a_light_organisation_waits_for_the_ready_stream_alone(link: RedisLink) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    await load.refill(8)
    await load.admit({1: [1] * 1000})
    await load.settle(await load.read(5), 8)
    before = load.unread[-1]
    await load.admit({2: [1]})
    # It is in the stream at once, behind no more than what lay ready.
    assert load.waiting[2] == []
    assert load.unread[-1] == before + 1 <= 10


@pytest.mark.parametrize(
    ("organisations", "mark", "moment", "turn"),
    [
        (1100, 16, 16, 1),
        (1100, 64, 64, 1),
        (1100, 128, 128, 3),
        (1100, 160, 160, 4),
        (1100, 160, 80, 2),
        (1100, 160, 20, 1),
        # Where much is sent, a turn may be an eighth of that.
        (1060, 200, 255, 7),
        (1060, 200, 256, 15),
        # Where very many wait: sixteen, if it is no more than each is served in 6.4 seconds.
        (1700, 200, 160, 10),
        (2100, 200, 255, 16),
        (2100, 200, 30, 4),
    ],
)
async def test_of_many_that_wait_a_turn_is_a_few_messages_of_what_each_is_served_in_ten_seconds(
    link: RedisLink, organisations: int, mark: int, moment: int, turn: int
) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    await load.refill(4)
    await load.admit({organisation: [1] * (turn + 2) for organisation in range(1, 1 + organisations)})
    # The first message of each went to the stream at once, because its turn was then.
    given = await load.read(4 * organisations)
    assert len(given) >= organisations
    moved: list[int] = []
    while len(moved) < 500:
        await link.call(*wire.refill("normal", SHARD, wire.Room(mark, MESSAGES_MAX, moment)))
        moved += [load.given(one).organisation_id for one in await load.read(mark)]
    turns = [len(list(run)) for _, run in itertools.groupby(moved)]
    # The first turn of each is a part of one.
    assert min(turns) == 1
    assert max(turns) == turn


# With 300 organisations a turn is sixteen messages where a mark and a moment are so many.
SIXTEEN = 256


async def _with_turns_of_sixteen(link: RedisLink, each: int) -> FairLoad:
    """300 organisations wait with so many messages each."""
    load = FairLoad(link.batch, Random(0))
    load.mark_max = SIXTEEN
    await load.begin()
    await load.refill(SIXTEEN)
    await load.admit({organisation: [1] * each for organisation in range(1, 301)})
    await load.settle(await load.read(10_000), SIXTEEN)
    return load


async def _moved(load: FairLoad) -> list[int]:
    """Whose messages one step moves."""
    given = await load.read(10_000)
    await load.settle(given, SIXTEEN)
    return [load.given(one).organisation_id for one in given]


async def test_the_first_turn_of_a_list_is_a_part_of_a_turn_and_each_part_is_as_frequent(
    link: RedisLink,
) -> None:
    load = await _with_turns_of_sixteen(link, 50)
    moved: list[int] = []
    while len(moved) < 300 * 26:
        moved += await _moved(load)
    turns: dict[int, list[int]] = {}
    for organisation, run in itertools.groupby(moved):
        turns.setdefault(organisation, []).append(len(list(run)))
    # The step that is full cuts a turn short.
    firsts = [own[0] for own in turns.values()]
    assert all(12 <= firsts.count(part) <= 26 for part in range(1, 17))
    seconds = [own[1] for own in turns.values() if len(own) > 1]
    assert max(seconds) == 16
    assert seconds.count(16) >= 0.8 * len(seconds) > 200
    assert load.broken == []


async def test_who_sends_little_waits_for_the_virtual_time_that_it_used_not_for_a_turn_of_all(
    link: RedisLink,
) -> None:
    load = await _with_turns_of_sixteen(link, 100)
    for _ in range(12):
        await _moved(load)
    waits = []
    for light in range(1001, 1011):
        # The first is served at once, the second when each of the others was served one.
        await load.admit({light: [1, 1]})
        moved: list[int] = []
        while moved.count(light) < 2:
            moved += await _moved(load)
        waits.append(len(moved))
    assert max(waits) <= 300 + 4 * SIXTEEN
    assert load.broken == []


# With 300 organisations a turn is four messages where a moment has so many.
FOUR = 40


async def _with_lists_of_three(link: RedisLink, monkeypatch: pytest.MonkeyPatch) -> FairLoad:
    """So many wait that a turn is four messages; all are of one size, and each has three in a chunk."""
    load = FairLoad(link.batch, Random(0))
    monkeypatch.setattr(load, "expiry", lambda: FAR_US)
    await load.begin()
    await load.refill(FOUR)
    await load.admit({organisation: [1] * 4 for organisation in range(1, 300)})
    return load


async def _chunks(link: RedisLink, organisation: int) -> list[int]:
    """How many messages each chunk of a list has."""
    found = await _fields(link)
    names = [b"%d:%d" % (organisation, number) for number in range(1, 100)]
    return [len(records_of(found[name])) for name in names if name in found]


@pytest.mark.parametrize(
    ("at_once", "whole"), [(1, [24] * 4), (2, [23] + [24] * 3), (50, [3, 24, 24, 2, 24, 24])]
)
async def test_where_turns_are_four_messages_the_chunks_of_a_list_are_whole_turns(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch, at_once: int, whole: list[int]
) -> None:
    """What comes together is in pieces of 50, with whole turns in front. Pairs are counted in pairs."""
    load = await _with_lists_of_three(link, monkeypatch)
    for _ in range(100 // at_once):
        await load.admit({299: [1] * at_once})
    chunks = await _chunks(link, 299)
    assert sum(chunks) == len(load.waiting[299])
    assert chunks[:-1] == whole


async def test_what_waits_of_the_messages_that_begin_a_list_is_in_one_chunk(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of 50 is sent at once. A chunk with the second one alone would be a turn of its own."""
    load = await _with_lists_of_three(link, monkeypatch)
    await load.admit({300: [1] * 50})
    assert await _chunks(link, 300) == [23, 24, 2]
    assert load.broken == []


async def test_a_turn_of_few_messages_ends_with_its_chunk(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = await _with_lists_of_three(link, monkeypatch)
    await load.admit({organisation: [1] * 50 for organisation in range(200, 300)})
    moved: list[int] = []
    while len(moved) < 299 * 4:
        given = await load.read(256)
        moved += [load.given(one).organisation_id for one in given]
        await load.settle(given, FOUR)
    turns: dict[int, list[int]] = {}
    for organisation, run in itertools.groupby(moved):
        turns.setdefault(organisation, []).append(len(list(run)))
    # The first message was sent at once. A step that is full cuts a turn short.
    seconds = [turns[organisation][1] for organisation in range(200, 300)]
    assert max(seconds) == 3
    assert seconds.count(3) > 50
    assert load.broken == []


async def test_an_organisation_that_was_idle_has_earned_nothing(link: RedisLink) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    await load.refill(4)
    await load.admit({1: [1] * 500})
    for _ in range(50):
        await load.settle(await load.read(4), 4)
    await load.admit({2: [1] * 500})
    served = dict(load.served)
    for _ in range(20):
        await load.settle(await load.read(4), 4)
    gained = [load.served[o] - served.get(o, 0) for o in (1, 2)]
    assert abs(gained[0] - gained[1]) <= 2
    assert load.broken == []


async def test_nothing_is_left_behind_when_nobody_waits(link: RedisLink) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    await load.admit({o: [1] * 100 for o in (1, 2, 3)})
    while any(load.waiting.values()) or load.unread[-1]:
        await load.settle(await load.read(50), 4)
    await load.refill(128)
    _, *line = keys.line_keys(SHARD, "normal")
    await nothing_is_left(link)
    assert await link.batch([("EXISTS", key) for key in line[1:]]) == [0, 0]


async def _fields(link: RedisLink) -> dict[bytes, bytes]:
    """The hash of the line."""
    flat = await link.call("HGETALL", keys.wait_key(SHARD, "normal"))
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def nothing_is_left(link: RedisLink) -> None:
    """Of all that a line kept, only its mark and its numbers are there."""
    left = await _fields(link)
    assert int(left.pop(b"number")) > 0
    assert left.pop(b"run")
    assert left == {b"mark": b"128", b"bundled": b"0"}


async def test_what_waits_in_lists_is_counted_with_all_others(link: RedisLink) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    await load.admit({1: [1] * 300, 2: [2] * 100})
    await load.settle([], 50)
    hand = await load.read(2)
    assert len(hand) > 40
    found = await instant_of(link, SHARD, None, 10)
    assert (found.cut.held, found.cut.waiting, found.cut.recount) == (500, 400, 500)
    # The sums are lost, as an older version leaves them: all messages are read.
    await link.call("DEL", keys.held_by_key(SHARD))
    held = _held_keys(SHARD)
    assert sorted(await link.call("FCALL", versioned("tally"), len(held), *held)) == [[1, 300], [2, 200]]
    status = await StatusReader(None, link, None, 1).queues(time.time_ns() // 1_000_000)  # type: ignore[arg-type]
    assert (status["normal"].waiting, status["normal"].in_hand) == (400 - len(hand), len(hand))
    # The oldest was accepted a microsecond after 1970.
    assert status["normal"].oldest_ms > 10**12


async def test_a_message_that_is_due_comes_by_the_same_door(link: RedisLink) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    await load.refill(4)
    await load.admit({1: [1] * 20})
    load.waiting[2] = []
    for organisation in (1, 2):
        late = load.message(organisation, 1)
        load.waiting[organisation].append(late)
        await link.call("ZADD", keys.due_key(SHARD, "normal"), 5, msgspec.msgpack.encode(late))
    assert (await link.batch([wire.promote("normal", SHARD, 5, 10, wire.Room(4))]))[0][0] == 2
    await load.look()
    # The one of the organisation without a backlog is next; the other one waits behind its list.
    assert load.waiting[2] == []
    assert [m.id for m in load.waiting[1]][-1] == "m000021"
    while any(load.waiting.values()):
        await load.settle(await load.read(4), 4)
    assert load.broken == []


async def test_beside_an_older_version_the_lists_are_emptied_and_nothing_more_goes_to_them(
    link: RedisLink,
) -> None:
    load, log = FairLoad(link.batch, Random(0)), structlog.get_logger()
    await load.begin()
    await load.refill(4)
    await load.admit({1: [1] * 40})
    pulse = Pulse(StoreClock(log), "w", log)
    reader = QueueStreams(
        link, link, queue="normal", shards=1, worker_name="w", timeout_s=10, log=log, pulse=pulse
    )
    # Those of the load are of this version.
    for name in await link.call("HKEYS", keys.holders_key(SHARD)):
        await link.call("HSET", keys.FORMATS_READ, name, note(time.time_ns() // 1000))
    await reader.join()
    await reader.beat()
    reader.ready_max = 4
    await reader.promote(0, 1)
    assert pulse.formats == FORMATS
    assert await waiting(link) > 30
    # A worker of an older version registers, and notes nothing of itself.
    await link.call("HSET", keys.holders_key(SHARD), "older", 1)
    await reader.beat()
    await reader.promote(0, 1)
    assert await waiting(link) == 0
    await load.admit({1: [1] * 40})
    assert await waiting(link) == 0


async def waiting(link: RedisLink) -> int:
    """Messages in the lists."""
    touched = (*keys.line_keys(SHARD, "normal"), keys.limits_key(SHARD), keys.ways_key(SHARD, "normal"))
    messages: int = (await link.call("FCALL_RO", versioned("backlog"), 6, *touched, 10))[0]
    return messages


async def test_a_worker_that_reads_alone_finds_all_that_waits_without_a_sweep(
    url: str, link: RedisLink
) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    await load.refill(4)
    await load.admit({o: [1] * 40 for o in (1, 2, 3)})
    reading = RedisLink(url, timeout_s=10, name="reading")
    reader = QueueStreams(
        link, reading, queue="normal", shards=1, worker_name="w", timeout_s=10, log=structlog.get_logger()
    )
    await reader.join()
    reader.ready_max = 4
    # The one call that tells it that messages wait.
    await reader.promote(0, 1)
    taken: list[Any] = []
    while len(taken) < 120:
        entries = await reader.read(30, 60_000)
        assert entries
        taken += entries
    await reading.close()
    by = [[e.message.id for e in taken if e.message.organisation_id == o] for o in (1, 2, 3)]
    assert all(ids == sorted(ids, key=lambda i: int(i[1:])) for ids in by)


async def test_what_an_older_version_left_in_the_stream_is_ready(link: RedisLink) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    load.waiting[1] = old = [load.message(1, 1) for _ in range(500)]
    ids = [m.id for m in old]
    stream = keys.queue_key(SHARD, "normal")
    await link.batch([("XADD", stream, "*", "m", msgspec.msgpack.encode(m)) for m in old])
    load.mark_max = 500
    await load.look()
    assert load.waiting[1] == []
    await load.admit({1: [1] * 10, 2: [1]})
    assert load.waiting[2] == []
    while any(load.waiting.values()) or load.unread[-1]:
        await load.settle(await load.read(100), 4)
    assert load.broken == []
    assert load.served == {1: len(ids) + 10, 2: 1}


@pytest.mark.parametrize("seed", range(3))
async def test_what_expires_in_a_list_leaves_it_and_the_others_keep_their_order(
    link: RedisLink, seed: int
) -> None:
    rng = Random(seed)
    load = FairLoad(link.batch, rng)
    await load.begin()
    load.mark_max = 4
    await load.refill(4)
    # The end of each list, its middle, or some here and there: a chunk holds about 60.
    chosen = [range(30, 150), range(40, 135), rng.sample(range(150), 80)][seed]
    load.expiry = lambda: 2 if load.number % 150 in chosen else FAR_US
    await load.admit({o: [1] * 150 for o in (1, 2)})
    # Part of the first chunk is taken.
    await load.settle(await load.read(4), 4)
    over = {m.id for waiting in load.waiting.values() for m in waiting if m.expires_at_us == 2}
    for waiting in load.waiting.values():
        waiting[:] = [m for m in waiting if m.id not in over]
    cursor, moved = b"0", 0
    while True:
        cursor, some = (await link.batch([wire.sift("normal", SHARD, cursor, 2, wire.Room(4))]))[0]
        moved += some
        if cursor == b"0":
            break
    assert moved == len(over) > 50
    stream = await link.call("XRANGE", keys.queue_key(SHARD, "normal"), "-", "+")
    ready = [msgspec.msgpack.decode(m)[0] for _, fields in stream for m in payloads_of(fields[1])]
    assert over <= set(ready)
    load.skip(over)
    # Others come behind, also in a list whose last chunk was emptied.
    load.expiry = lambda: FAR_US
    await load.admit({o: [1] * 20 for o in (1, 2)})
    while any(load.waiting.values()) or load.unread[-1]:
        await load.settle(await load.read(50), 4)
    assert [b for b in load.broken if "lie ready" not in b] == []
    await load.refill(128)
    await nothing_is_left(link)
