"""The composition root: from a forked process to a role at work.

Every role has the same skeleton: start uvloop, connect, announce that it is ready, beat, and drain
when it is asked to (`engine.boot.heartbeat`).

Exit codes: 0 drained; 1 ended, and to be replaced; 3 ended by something that an operator must mend.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import uvloop

from engine.boot.admin import serve_admin
from engine.boot.archiver import archive_and_match
from engine.boot.heartbeat import Heartbeat
from engine.boot.ingest import serve
from engine.boot.ledger import keep_books
from engine.boot.node import speak_for_node
from engine.boot.notifier import notify
from engine.boot.process import STORE_TIMEOUT_S, Process, end_by_fault, reasons
from engine.boot.worker import deliver
from engine.config import Config, Role
from engine.errors import Broken, EngineError, Unavailable
from engine.hosts.cpu_turns import give_way, take_short_turns
from engine.redis_keys import holders_key
from engine.stores.postgres.layout import confirm_shards
from engine.stores.redis.admission import fence_all
from engine.stores.redis.link import RedisLink
from engine.stores.redis.wire import ReplyError
from engine.supervision import CANNOT_BOOT, Pipes

log = structlog.get_logger("boot")


def run_role(role: Role, config: Config, name: str, pipes: Pipes, listener: socket.socket | None) -> int:
    """Be `role` until drained; returns the exit code."""

    async def main() -> int:
        if role in _LATER:
            give_way(by=_LATER_BY)
        if role in _ANSWERING:
            take_short_turns()
        life = Heartbeat(pipes.lines_fd, pipes.orders_fd)
        life.start()
        asyncio.get_running_loop().set_exception_handler(_end_when_broken)
        process = Process(role, config, name, life, listener)
        beating = asyncio.create_task(life.beat())
        metering = asyncio.create_task(process.meter.run())
        try:
            await confirm_shards(config.postgres.url, config.shards)
            await _ROLES[role](process)
            return 0
        # What ended the role may be wrapped in the groups of its tasks.
        except BaseException as e:
            found = reasons(e)
            if not found:
                raise
            if not all(isinstance(reason, EngineError) for reason in found):
                end_by_fault(e)
            sentence = " ".join(str(reason) for reason in found)
            log.error("role ends", role=role, reason=sentence)
            life.failed(sentence)
            # A store that is away may come back; a wrong setting stays wrong.
            return 1 if all(isinstance(reason, Unavailable) for reason in found) else CANNOT_BOOT
        finally:
            beating.cancel()
            metering.cancel()
            process.meter.close()

    return uvloop.run(main())


def _end_when_broken(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process at once when an invariant broke inside a request: it must not serve on."""
    loop.default_exception_handler(context)
    if isinstance(context.get("exception"), Broken):
        os._exit(1)


def fence(config: Config, names: list[str]) -> int:
    """Fence these holders in every shard; without names, all of this node. Returns the exit code 0.

    Raises Unavailable or ReplyError when not all of it was done: Redis is away, or refuses a step.
    Killed half way, some holders are fenced, and fencing them again does nothing.
    """

    async def main() -> int:
        link = RedisLink(config.redis.url, timeout_s=STORE_TIMEOUT_S, name="fence")
        try:
            wanted = names or await _holders_here(link, config)
            await fence_all(link, wanted, config.shards)
        finally:
            await link.close()
        return 0

    return uvloop.run(main())


async def _holders_here(link: RedisLink, config: Config) -> list[str]:
    """The holders of this node that are registered in any shard. Raises Unavailable."""
    found: set[str] = set()
    for reply in await link.batch([("HKEYS", holders_key(s)) for s in range(config.shards)]):
        if isinstance(reply, ReplyError):
            raise Unavailable(f"Redis does not say who is registered: {reply}.") from reply
        found.update(name.decode() for name in reply)
    return sorted(name for name in found if name.startswith(f"{config.node_name}."))


async def _archiver(process: Process) -> None:
    async with process.link("clock") as link:
        await process.know_the_time(link)
    await archive_and_match(
        process.config, process.name, process.life, process.link, process.pulse, process.meter
    )


# Roles of which somebody waits for each answer.
_ANSWERING: tuple[Role, ...] = ("ingest", "express")
# Roles that messages seldom wait for, and by how much their nice value is higher.
_LATER: tuple[Role, ...] = ("ledger", "archiver", "notifier")
_LATER_BY = 5
_ROLES: dict[Role, Callable[[Process], Awaitable[None]]] = {
    "ingest": serve,
    "express": deliver,
    "normal": deliver,
    "ledger": keep_books,
    "archiver": _archiver,
    "notifier": notify,
    "admin": serve_admin,
    "node": speak_for_node,
}
