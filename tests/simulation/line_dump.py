"""What waits behind a ready stream, read from a real Redis and from the simulated one, to be compared."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from engine import redis_keys as keys
from engine.stores.redis.link import RedisLink
from tests.simulation.redis_store import run_id


async def real_line(link: RedisLink, shard: int, queue: Any) -> Any:
    """What waits behind a ready stream: its lists, turns and numbers."""
    _, wait, turns, ahead = keys.line_keys(shard, queue)
    flat = await link.call("HGETALL", wait)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    lists = {}
    for organisation in [name for name in fields if re.fullmatch(rb"\d+(@\d+)?", name)]:
        first, last, taken, _, messages, segments, _, _, _, *more = msgspec.msgpack.decode(
            fields.pop(organisation)
        )
        if more:
            fields[b"start " + organisation] = b"%.17g" % more[0]
        chunks = [fields.pop(organisation + b":%d" % n, b"") for n in range(first, last + 1)]
        data = b"".join(chunks)[taken:]
        lists[organisation] = found = []
        while data:
            size = int.from_bytes(data[2:6], "big")
            found.append((int.from_bytes(data[:2], "big"), data[6 : 6 + size]))
            data = data[6 + size :]
        assert (messages, segments) == (len(found), sum(of for of, _ in found))
        if not found:
            del lists[organisation]
    sets = [await link.call("ZRANGE", key, 0, -1, "WITHSCORES") for key in (turns, ahead)]
    scores = [dict(zip(s[::2], map(float, s[1::2]), strict=True)) for s in sets]
    paused = {name.partition(b":")[2] for name, value in fields.items() if value.endswith(b" paused")}
    behind = {name for name in lists if name.isdigit()}
    assert set(scores[0]) == behind - paused
    assert int(fields.get(b"put_off", b"0")) == sum(len(lists[name]) for name in set(lists) - behind)
    # What is kept of the ways, without what was moved; and their turns.
    ways = msgspec.msgpack.decode(fields.pop(b"ways", b"\x90"))
    kept = [ways[n : n + 5] for n in range(0, len(ways), 10)]
    turns = await link.call("ZRANGE", keys.ways_key(shard, queue), 0, -1)
    assert int(fields.get(b"paused", b"0")) == len(paused)
    assert int(fields.get(b"parked", b"0")) == sum(len(lists[o]) for o in paused if o in lists)
    # The simulation counts no moves, nor what is between two plans.
    fields.pop(b"moved", None)
    fields.pop(b"plan", None)
    return lists, scores, plain_fields(fields), (kept, turns)


async def write_elsewhere(link: RedisLink, server: Any, shard: int, number: int) -> None:
    """As where another run of Redis was the last that wrote to the lines; `number`: of that run."""
    for wait in (keys.wait_key(shard, "express"), keys.wait_key(shard, "normal")):
        await link.call("HSET", wait, "run", run_id(number))
        server.store.hash(wait)[b"run"] = run_id(number)


def plain_fields(fields: dict[bytes, bytes]) -> Any:
    """The numbers of a line, and its notes on bundles without the ids."""
    notes = sorted(note for name, note in fields.items() if name.startswith(b"part:"))
    return {name: value for name, value in fields.items() if not name.startswith(b"part:")}, notes


def simulated_line(store: Any, shard: int, queue: Any) -> Any:
    _, wait, *sets = keys.line_keys(shard, queue)
    lists = store.lists(wait)
    fields = {name: value for name, value in store.db.get(wait, {}).items() if name not in lists}
    kept = [list(way) for way in fields.pop(b"ways", ())]
    turns = sorted(store.db.get(keys.ways_key(shard, queue), {}))
    return lists, [dict(store.db.get(key, {})) for key in sets], plain_fields(fields), (kept, turns)
