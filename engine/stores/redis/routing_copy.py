"""The copy of the routing plan in Redis. `engine.stores.postgres.routing` has the original, and says
what happens to the copy under failure."""

from __future__ import annotations

import msgspec

from engine.errors import Unavailable
from engine.records import NO_RECORD
from engine.redis_keys import ROUTING_PLAN
from engine.routing.records import RoutingPlan
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError


class RoutingCopy:
    """Writes and reads the copy, key `routing:plan`. Every call raises Unavailable."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def put(self, plan: RoutingPlan) -> None:
        """Keep `plan`, unless a newer one is there. A second call changes nothing."""
        packed = msgspec.msgpack.encode(plan)
        commands: list[Command] = [
            ("ZADD", ROUTING_PLAN, plan.version, packed),
            ("ZREMRANGEBYRANK", ROUTING_PLAN, 0, -2),
        ]
        for reply in await self._link.batch(commands):
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis does not keep the routing plan: {reply}.") from reply

    async def newest(self) -> RoutingPlan | None:
        """The newest plan that was put; None when there is none, or it cannot be read."""
        try:
            found = await self._link.call("ZRANGE", ROUTING_PLAN, -1, -1)
            return msgspec.msgpack.decode(found[0], type=RoutingPlan) if found else None
        except (ReplyError, *NO_RECORD):
            # A newer version of the engine, or something else, has written it.
            return None
