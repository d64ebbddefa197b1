"""What waits behind a ready stream, read from a real Redis and from the simulated one, to be compared."""

from __future__ import annotations

from typing import Any

import msgspec

from engine import redis_keys as keys
from engine.stores.redis.link import RedisLink


async def real_line(link: RedisLink, shard: int, queue: Any) -> Any:
    """What waits behind a ready stream: its lists, turns and numbers."""
    _, wait, turns, ahead = keys.line_keys(shard, queue)
    flat = await link.call("HGETALL", wait)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    lists = {}
    for organisation in [name for name in fields if name.isdigit()]:
        first, last, taken, _, messages, segments, *_ = msgspec.msgpack.decode(fields.pop(organisation))
        chunks = [fields.pop(organisation + b":%d" % n, b"") for n in range(first, last + 1)]
        data = b"".join(chunks)[taken:]
        lists[organisation] = found = []
        while data:
            size = int.from_bytes(data[2:6], "big")
            found.append((int.from_bytes(data[:2], "big"), data[6 : 6 + size]))
            data = data[6 + size :]
        assert (messages, segments) == (len(found), sum(of for of, _ in found))
    sets = [await link.call("ZRANGE", key, 0, -1, "WITHSCORES") for key in (turns, ahead)]
    scores = [dict(zip(s[::2], map(float, s[1::2]), strict=True)) for s in sets]
    paused = {name.partition(b":")[2] for name, value in fields.items() if value.endswith(b" paused")}
    assert set(scores[0]) == set(lists) - paused
    assert int(fields.get(b"paused", b"0")) == len(paused)
    assert int(fields.get(b"parked", b"0")) == sum(len(lists[o]) for o in paused if o in lists)
    # The simulation counts no moves.
    fields.pop(b"moved", None)
    return lists, scores, plain_fields(fields)


def plain_fields(fields: dict[bytes, bytes]) -> Any:
    """The numbers of a line, and its notes on bundles without the ids."""
    notes = sorted(note for name, note in fields.items() if name.startswith(b"part:"))
    return {name: value for name, value in fields.items() if not name.startswith(b"part:")}, notes


def simulated_line(store: Any, shard: int, queue: Any) -> Any:
    _, wait, *sets = keys.line_keys(shard, queue)
    lists = store.lists(wait)
    fields = {name: value for name, value in store.db.get(wait, {}).items() if name not in lists}
    return lists, [dict(store.db.get(key, {})) for key in sets], plain_fields(fields)
