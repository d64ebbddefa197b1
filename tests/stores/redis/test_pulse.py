"""The pulse: the clock, and what the processes beside this one read; on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog
from structlog.testing import capture_logs

from engine.clocks.store_clock import StoreClock, wall_us
from engine.formats import FORMATS, GONE_US, note
from engine.nodes.flow import NodeFlow
from engine.nodes.records import NodeNote
from engine.redis_keys import FORMATS_READ, holders_key
from engine.stores.redis.link import RedisLink
from engine.stores.redis.memory import memory_of
from engine.stores.redis.node_notes import RedisNodeNotes, note_commands
from engine.stores.redis.pulse import Pulse
from engine.stores.redis.wire import OutOfMemory
from supervisor.embedded.servers import Server, start_redis


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(redis_url, timeout_s=5, name="pulse")
    await link.call("DEL", FORMATS_READ, holders_key(0))
    yield link
    await link.call("DEL", FORMATS_READ, holders_key(0))
    await link.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Redis of its own, whose memory a test may limit."""
    server = start_redis(tmp_path)
    yield server
    server.stop(10)


async def a_pulse(link: RedisLink, name: str, ahead_us: int = 0) -> Pulse:
    log = structlog.get_logger()
    pulse = Pulse(StoreClock(log, wall_us=lambda: wall_us() + ahead_us), name, log)
    await pulse.batch(link, [])
    return pulse


async def beat(link: RedisLink, *pulses: Pulse) -> None:
    for pulse in pulses:
        assert await pulse.batch(link, [("ECHO", "one"), ("ECHO", "two")]) == [b"one", b"two"]


async def test_processes_an_hour_apart_show_one_time(link: RedisLink) -> None:
    with capture_logs() as lines:
        ahead, right = await a_pulse(link, "a", 3_600_000_000), await a_pulse(link, "b")
    seconds, microseconds = await link.call("TIME")
    redis_us = int(seconds) * 1_000_000 + int(microseconds)
    for pulse in (ahead, right):
        assert abs(pulse.clock.now_us() - redis_us) < 60_000_000
    assert [(line["event"], line["seconds"]) for line in lines] == [("the clock of this node is off", 3600.0)]
    assert (ahead.clock.off, right.clock.off) == (True, False)


async def test_the_newest_kinds_are_written_once_nobody_is_left_who_cannot_read_them(link: RedisLink) -> None:
    with capture_logs() as lines:
        first, second = await a_pulse(link, "n.first.1"), await a_pulse(link, "n.second.1")
        assert not first.readable("outcome_unknown")
        await beat(link, first, second)
        assert first.readable("outcome_unknown")
        # A worker of an older version registers, and notes nothing.
        await link.call("HSET", holders_key(0), "n.old.1", 1)
        await beat(link, first, second)
        assert (first.formats, second.formats) == (0, 0)
        assert not first.readable("outcome_unknown")
        assert first.readable("sent")
        # It is fenced; then one of a newer version comes, and one that is gone has left its note.
        await link.call("HDEL", holders_key(0), "n.old.1")
        now_us = first.clock.now_us()
        stale = f"0 {now_us - GONE_US - 1}"
        await link.call("HSET", FORMATS_READ, "newer", f"{FORMATS + 1} {now_us}", "gone", stale)
        await beat(link, first, second)
        assert (first.formats, second.formats) == (FORMATS, FORMATS)
        await beat(link, first)
    assert b"gone" not in await link.call("HKEYS", FORMATS_READ)
    said = [line["event"] for line in lines]
    assert said == [
        "processes of an older version run beside this one",
        "processes of an older version run beside this one",
        "all processes read the formats of this version",
        "all processes read the formats of this version",
    ]


async def test_notes_that_are_all_old_after_an_outage_do_not_remove_the_new_ones(link: RedisLink) -> None:
    with capture_logs() as lines:
        pulses = [await a_pulse(link, f"n.{n}.1") for n in range(3)]
        await link.call("HSET", holders_key(0), *(part for p in pulses for part in (p._name, 1)))
        await beat(link, *pulses, *pulses)
        before = len(lines)
        old = note(pulses[0].clock.now_us() - GONE_US - 1)
        await link.call("HSET", FORMATS_READ, *(part for p in pulses for part in (p._name, old)))
        for _ in range(3):
            await beat(link, *pulses)
            assert [p.formats for p in pulses] == [FORMATS] * 3
    assert lines[before:] == []


async def test_processes_beside_a_full_redis_do_not_count_as_older_ones(server: Server) -> None:
    link = RedisLink(server.url, timeout_s=5, name="pulse")
    pulses = [await a_pulse(link, f"n.{n}.1") for n in range(2)]
    try:
        await link.call("HSET", holders_key(0), *(part for p in pulses for part in (p._name, 1)))
        old = note(pulses[0].clock.now_us() - GONE_US - 1)
        await link.call("HSET", FORMATS_READ, *(part for p in pulses for part in (p._name, old)))
        used = memory_of(await link.call("INFO", "memory")).used_bytes
        await link.call("CONFIG", "SET", "maxmemory", used // 2)
        with pytest.raises(OutOfMemory):
            await link.call("HSET", FORMATS_READ, "other", note(0))
        for _ in range(3):
            await beat(link, *pulses)
        assert [p.formats for p in pulses] == [FORMATS] * 2
        assert pulses[0].readable("canceled")
        # And the node is noted, which would be shown as gone.
        await link.batch(note_commands(NodeNote(name="n", at_us=5, state="running"), NodeFlow(at_us=5), []))
        assert (await RedisNodeNotes(link).notes())["n"].at_us == 5
        assert (await RedisNodeNotes(link).flows())["n"].at_us == 5
    finally:
        await link.close()


async def test_a_user_that_may_not_note_anything_still_beats(link: RedisLink, redis_url: str) -> None:
    await link.call("HSET", FORMATS_READ, "other", note(wall_us()))
    await link.call("ACL", "SETUSER", "narrow", "reset", "on", ">word", "+@all", "~holders:*")
    parts = urlsplit(redis_url)
    place = parts.netloc.rpartition("@")[2]
    narrow = RedisLink(parts._replace(netloc=f"narrow:word@{place}").geturl(), timeout_s=5, name="narrow")
    try:
        pulse = await a_pulse(narrow, "narrow")
        await beat(narrow, pulse)
        assert pulse.formats == 0
    finally:
        await narrow.close()
        await link.call("ACL", "DELUSER", "narrow")
