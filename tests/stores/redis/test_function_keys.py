"""Redis refuses a function as a whole when one of its keys is not to be had; it never stops half way.

A user of Redis with an ACL stands for every reason why a key cannot be had: an ACL of the operator's, a
slot of a cluster that has moved. Redis looks at the keys that a call names before it runs the function,
and at the others when the function touches them, when something may have been written already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest

from engine import redis_keys as keys
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.lua_libraries import KEPT_MS, libraries, outdated, versioned
from engine.stores.redis.wire import ReplyError
from tests.conftest import own_database
from tests.simulation.test_model import Sequence, Side

_SHARD = 0
_DATABASE = 10
_STEPS = 400


@pytest.fixture
def url(redis_url: str) -> str:
    return redis_url.rpartition("/")[0] + f"/{_DATABASE}"


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, _DATABASE) as link:
        yield link


@pytest.fixture
async def limited(url: str, link: RedisLink) -> AsyncIterator[RedisLink]:
    """A connection of the user `limited`, whose keys the test decides by ACL."""
    await link.call("ACL", "SETUSER", "limited", "reset", "on", ">word", "+@all")
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    limited = RedisLink(parts._replace(netloc=f"limited:word@{place}").geturl(), timeout_s=10, name="limited")
    await limited.start()
    yield limited
    await limited.close()
    await link.call("ACL", "DELUSER", "limited")


async def everything(link: RedisLink) -> dict[bytes, bytes]:
    names = sorted(await link.call("KEYS", "*"))
    return dict(zip(names, await link.batch([("DUMP", name) for name in names]), strict=True))


async def tried(link: RedisLink, limited: RedisLink, command: Any) -> Any:
    """Run a function with each of its keys denied in turn, then with no other key than its own."""
    name, count = command[1], command[2]
    named = command[3 : 3 + count]
    before = await everything(link)
    for denied in dict.fromkeys(named):
        allowed = [b"~" + key for key in named if key != denied]
        await link.call("ACL", "SETUSER", "limited", "resetkeys", *allowed)
        with pytest.raises(ReplyError, match="NOPERM"):
            await limited.call(*command)
    assert await everything(link) == before, name
    await link.call("ACL", "SETUSER", "limited", "resetkeys", *[b"~" + key for key in named])
    reply = (await limited.batch([command]))[0]
    assert not isinstance(reply, ReplyError) or "permission" not in str(reply).lower(), (name, reply)
    return reply


def others(message: bytes) -> list[Any]:
    """Calls of the functions that a random sequence of queue and credit has not."""
    s = _SHARD
    kinds = (keys.queue_key, keys.due_key, keys.dead_key, keys.wait_key)
    places = [of(s, q) for of in kinds for q in ("express", "normal")]
    usage = (keys.usage_key(s), keys.usage_head_key(s))
    held, moved = (keys.held_key(s), keys.held_by_key(s)), keys.moved_key(s)
    receipts, later = keys.receipts_key(s), keys.receipts_later_key(s)
    dead, activity = keys.dead_key(s, "express"), keys.activity_key(s)
    applied, due = keys.receipts_applied_key(s), (keys.due_key(s, "express"), keys.due_key(s, "normal"))
    return [
        ("FCALL", versioned("note_books"), 1, usage[1], "g 0-0 1 "), ("FCALL", versioned("note_lead"), 1,
        usage[1], 1), ("FCALL", versioned("note_unclosed"), 1, usage[1], 1, "7 8"), ("FCALL",
        versioned("note_waits"), 1, usage[1], 1), ("FCALL", versioned("replay"), 4, dead, due[0], activity,
        moved, "1-1", 5, message, b"row"), ("FCALL", versioned("drop"), 6, dead, activity, *usage, *held,
        "1-2", 7, 2, b"row"), ("FCALL", versioned("tally"), 10, *held, *places), ("FCALL",
        versioned("cut"), 12, *places, keys.activity_key(s), *usage, held[0], "0-0", "", 10, 10, 10),
        ("FCALL", versioned("backlog"), 6, *keys.line_keys(s, "normal"), keys.limits_key(s),
         keys.ways_key(s, "normal"), 10),
        ("FCALL", versioned("backlogs"), 4, *places[6:],
         *[keys.line_keys(s, of)[2] for of in ("express", "normal")], 1, 2),
        ("FCALL", versioned("receipts_lease"), 1, keys.INBOUND_LOCK, "me", 1000),
        ("FCALL", versioned("receipts_release"), 1, keys.INBOUND_LOCK, "me"), ("FCALL",
        versioned("receipts_begin"), 2, keys.activity_key(s), applied, "token", 3), ("FCALL",
        versioned("receipts_record"), 4, keys.activity_key(s), applied, *due, 1, b"\x90", 1, 3, "token",
         "e", 5, message),
        ("FCALL", versioned("recount"), 11, moved, keys.activity_key(s), held[0], *places, "token", 1000,
         "", 0, 5, "begin", 1, "", "", 5),
        ("FCALL", versioned("receipts_hand_on"), 1, receipts, b"\x90"),
        ("FCALL", versioned("receipts_finish"), 3, receipts, later, keys.receipts_unreadable_key(s),
         "1-1", -1, "1-2", 1, 5, b"late"),
        ("FCALL", versioned("receipts_finish_late"), 1, later, b"late", 9, b"later"),
        ("FCALL", versioned("inbound_keep"), 2, keys.INBOUND, keys.INBOUND_SEEN, 5, b"digest", 9, b"part"),
        ("FCALL", versioned("inbound_reply"), 2, keys.AUTO_REPLIES, keys.replied_key(7, "+49151"), "id", 4, 9,
         b"reply"),
        ("FCALL", versioned("inbound_set_aside"), 2, keys.INBOUND, keys.INBOUND_UNREADABLE, "1-1", "1-3"),
        ("FCALL", versioned("receipts_first"), 1, keys.activity_key(s)),
        ("FCALL", versioned("reserve"), 2, keys.rate_key("p"), keys.rate_wide_key("p"), "normal", 5, 1,
         "1000", "0.2", "1050000.0", 3, 100_000, "3.0", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [4, 5])
async def test_a_function_with_a_key_refused_does_nothing_and_touches_no_key_that_it_does_not_name(
    link: RedisLink, limited: RedisLink, seed: int
) -> None:
    await link.batch([("XADD", keys.receipts_key(_SHARD), f"1-{n}", "b", b"receipt") for n in (1, 2)])
    dead = keys.dead_key(_SHARD, "express")
    await link.batch([("XADD", dead, f"1-{n}", "m", b"message") for n in (1, 2)])
    await link.call("XADD", keys.INBOUND, "1-1", "b", b"part")
    sequence, side = Sequence(Random(seed)), Side("no run that a ledger could have seen")
    await link.call("SET", keys.generation_key(_SHARD), "g1")
    seen = set()
    commands: list[Any] = [wire.make_group("normal", _SHARD)]
    for step in range(_STEPS):
        what, *given = sequence.next(side.entries)  # type: ignore[arg-type]
        command = commands.pop() if commands else side.command(what, *given)
        if command[0] != "FCALL":
            reply = (await link.batch([command]))[0]
            if not step:
                continue
        else:
            seen.add(command[1])
            reply = await tried(link, limited, command)
        if step:
            side.remember(what, given, reply)
            if what == "register" and given[0] in sequence.sequences:
                sequence.sequences[given[0]] = 0
            if what == "admit" and reply[0] == b"applied":
                sequence.sequences[given[0]] = given[1].sequence
    for command in others(b"message"):
        seen.add(command[1])
        await tried(link, limited, command)
    assert side.entries
    assert await link.call("XLEN", dead) == 0
    names = [library.name for library in libraries()]
    loaded = [library for library in await link.call("FUNCTION", "LIST") if library[1].decode() in names]
    assert seen == {function[1].decode() for library in loaded for function in library[5]}


async def test_functions_of_another_version_stay_until_nobody_has_loaded_them_for_long(
    link: RedisLink,
) -> None:
    other = b"#!lua name=smsengine_0000\nredis.register_function('old_0000', function() return 7 end)"
    foreign = b"#!lua name=smsothers\nredis.register_function('foreign', function() return 8 end)"
    try:
        for code in (other, foreign):
            await link.call("FUNCTION", "LOAD", "REPLACE", code)
        await load_functions(link)
        assert await link.call("FCALL", "old_0000", 0) == 7
        # A month later.
        await link.call("HINCRBY", keys.FUNCTIONS_LOADED, "smsengine_0000", -KEPT_MS - 1)
        await load_functions(link)
        names = {library[1].decode() for library in await link.call("FUNCTION", "LIST")}
        assert "smsengine_0000" not in names
        assert names >= {"smsothers", *(library.name for library in libraries())}
        own = {name.decode() for name in await link.call("HKEYS", keys.FUNCTIONS_LOADED)}
        assert own == {library.name for library in libraries()}
    finally:
        await link.batch([("FUNCTION", "DELETE", name) for name in ("smsengine_0000", "smsothers")])


def test_only_the_engines_own_libraries_are_ever_outdated() -> None:
    found = [
        "smsengine",
        "smsengine_00000000",
        "smsengine_inbox_00000000",
        "smsothers",
        "smsengine_x_00000000",
    ]
    assert outdated(found, dict.fromkeys(found, 0), KEPT_MS) == []
    assert outdated(found, dict.fromkeys(found, 0), KEPT_MS + 1) == found[:3]
    assert outdated(found, {}, KEPT_MS + 1) == []
