"""The routing plan that is in force, as one process knows it.

A process looks every second whether the version of the plan in PostgreSQL has changed,
and if so reads the plan and replaces it as a whole. So a message is routed by one plan, the one
before the change or the one after it. Nobody who asks for the plan waits.

    PostgreSQL away           the plan last known stays in force
    PostgreSQL away           PostgreSQL has 2 seconds. Then the copy in Redis counts, as any process
    when the process starts   that did read PostgreSQL last put it there. When there is no copy either,
                              `start` raises Unavailable: sending could go through a provider that
                              somebody has paused
    Redis away                the copy stays as it was; it is put there again within a minute
    frozen                    for a second after it wakes, the process goes by the plan from before. A
                              copy that it puts then is dropped when a newer one is there
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.routing.ports import RoutingCopy, RoutingStore
from engine.routing.records import RoutingPlan

log = structlog.get_logger("routing")

_LOOK_S = 1.0
# How long PostgreSQL has at the start before the copy counts.
_FIRST_S = 2.0
# The copy is put again this often although nothing has changed, because Redis may have lost it.
_COPY_S = 60.0


class RoutingTable:
    """The plan in force. Call `start` once before routing, then `run` until canceled."""

    def __init__(
        self,
        store: RoutingStore,
        copy: RoutingCopy,
        on_change: Callable[[RoutingPlan], None],
        *,
        look_s: float = _LOOK_S,
        first_s: float = _FIRST_S,
        copy_s: float = _COPY_S,
    ) -> None:
        """`on_change` is called with each new plan, on the loop; with the first one from inside `start`.

        The times, seconds: how often to look, what PostgreSQL has at the start, how often to copy.
        """
        self._store = store
        self._copy = copy
        self._on_change = on_change
        self._look_s = look_s
        self._first_s = first_s
        self._copy_s = copy_s
        self._plan: RoutingPlan | None = None
        self._away = False
        # Loop time at which the copy is to be put again.
        self._copy_at_s = 0.0

    @property
    def plan(self) -> RoutingPlan:
        """The plan in force. Raises Unavailable while none is known."""
        if self._plan is None:
            raise Unavailable("The routing plan is not known yet.")
        return self._plan

    async def start(self) -> None:
        """Learn a plan: from PostgreSQL, else from its copy in Redis.

        Raises Unavailable when neither has one; call again, later.
        """
        try:
            async with asyncio.timeout(self._first_s):
                plan = await self._store.read()
        except (Unavailable, TimeoutError) as e:
            copied = await self._copy.newest()
            if copied is None:
                raise Unavailable("PostgreSQL is away, and Redis has no copy of the routing plan.") from e
            log.warning("PostgreSQL is away; routing by the plan that Redis has", version=copied.version)
            self._away = True
            self._use(copied)
            return
        self._use(plan)
        await self._put_copy()

    async def refresh(self) -> None:
        """Look once whether the plan has changed. What cannot be read stays as it was."""
        try:
            version = await self._store.version()
            if self._plan is None or version != self._plan.version:
                self._use(await self._store.read())
                self._copy_at_s = 0.0
        except Unavailable as e:
            if not self._away:
                log.warning("routes cannot be looked up; the last known stay", reason=e.detail)
            self._away = True
            return
        if self._away:
            log.info("routes can be looked up again")
        self._away = False
        # Only a plan that PostgreSQL has just confirmed is copied.
        if asyncio.get_running_loop().time() >= self._copy_at_s:
            await self._put_copy()

    async def run(self) -> None:
        """Keep up with changes, until canceled."""
        while True:
            await next_tick(self._look_s)
            await self.refresh()

    def _use(self, plan: RoutingPlan) -> None:
        self._plan = plan
        log.info("routes in force", version=plan.version, routes=len(plan.routes), paused=list(plan.paused))
        self._on_change(plan)

    async def _put_copy(self) -> None:
        assert self._plan is not None
        try:
            await self._copy.put(self._plan)
        except Unavailable:
            # The next look tries again.
            return
        self._copy_at_s = asyncio.get_running_loop().time() + self._copy_s
