"""The supervisor of the simulated processes: fences who died, and starts another."""

from __future__ import annotations

import asyncio

from engine.errors import Unavailable
from engine.stores.redis.admission import fence_command
from tests.simulation.wires import Link
from tests.simulation.world import Role, World

_LOOK_S = 0.1


class Supervisor:
    """Runs in a process of its own, which nothing befalls."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.process = world.process("supervisor")
        world.graves.append(self.process)
        self._link = Link(world.network, self.process, world.redis, world.settings.link_timeout_s)
        world.on_death.append(lambda role: self.process.call_soon(self._bury, role))
        # While it is set, what has ended is not replaced.
        self.draining = False
        self.process.call_soon(lambda: self.process.create_task(self._watch()))

    def _bury(self, role: Role) -> None:
        self.process.create_task(self._replace(role))

    async def fence(self, name: str) -> None:
        """As engine/boot/__init__.py `fence`, again until it is done."""
        shards = range(self._world.settings.shards)
        while True:
            try:
                await self._link.batch([fence_command(shard, name) for shard in shards])
                return
            except Unavailable:
                await asyncio.sleep(0.2)

    async def _replace(self, role: Role) -> None:
        rng = self._world.clock.rng
        await asyncio.sleep(rng.random() * 0.3)
        if role.process.role != "ledger":
            await self.fence(role.process.name)
        if not self.draining:
            await asyncio.sleep(rng.random() * 0.3)
            self._world.spawn(role.process.role)

    async def _watch(self) -> None:
        """Notice who has ended by itself."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for role in [r for r in self._world.roles if r.over]:
                self._world.kill(role)
