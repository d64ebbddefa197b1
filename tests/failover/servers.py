"""A Redis with replicas and sentinels, each a process of its own that a test may kill, freeze or cut off."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from engine.bundle_format import payloads_of
from engine.errors import Unavailable
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.wire import ReplyError
from supervisor.embedded.recipes import Valkey

MASTER = "mymaster"
# After so long without an answer a sentinel believes that a server is down, milliseconds.
DOWN_AFTER_MS = 500


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Process:
    """One server."""

    def __init__(self, folder: Path, arguments: Sequence[str], *, host: str = "127.0.0.1") -> None:
        self.port = free_port()
        self.host = host
        self._folder = folder / str(self.port)
        self._folder.mkdir()
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        argv = [str(Valkey().programs()[0]), *self.configuration(self._folder), "--port", str(self.port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*argv, "--dir", str(self._folder), *self._arguments], stdout=log, stderr=log
            )

    def configuration(self, folder: Path) -> list[str]:
        return []

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def ask(self, *command: str) -> Any:
        """The reply to one command; tried again until the server answers."""
        link = RedisLink(self.url, timeout_s=2, name="test")
        try:
            async with asyncio.timeout(60):
                while True:
                    try:
                        return await link.call(*command)
                    except Unavailable:
                        await asyncio.sleep(0.02)
        finally:
            await link.close()


class Sentinel(Process):
    """A sentinel; it writes what it learns into its file."""

    def __init__(self, folder: Path, monitored: Process, quorum: int) -> None:
        super().__init__(folder, ["--sentinel"])
        self._settings = [
            f"sentinel monitor {MASTER} {monitored.host} {monitored.port} {quorum}",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} 5000",
        ]

    def configuration(self, folder: Path) -> list[str]:
        file = folder / "sentinel.conf"
        if not file.exists():
            file.write_text("\n".join(self._settings) + "\n")
        return [str(file)]


@asynccontextmanager
async def replicated_servers(
    folder: Path, *, replicas: int = 1, sentinels: int = 1
) -> AsyncIterator[Replicated]:
    """A master with replicas and sentinels, with the engine's functions."""
    servers = Replicated(folder, replicas=replicas, sentinels=sentinels)
    try:
        await servers.start()
        link = RedisLink(servers.url, timeout_s=5, name="test")
        await load_functions(link)
        await link.close()
        yield servers
    finally:
        servers.stop()


class Replicated:
    """A master, its replicas and its sentinels."""

    def __init__(self, folder: Path, *, replicas: int = 1, sentinels: int = 1) -> None:
        common = ["--save", "", "--appendonly", "yes", "--repl-diskless-sync-delay", "0"]
        self.master = Process(folder, common)
        follow = ["--replicaof", self.master.host, str(self.master.port)]
        self.replicas = [Process(folder, [*common, *follow]) for _ in range(replicas)]
        self.sentinels = [Sentinel(folder, self.master, sentinels // 2 + 1) for _ in range(sentinels)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"{s.host}:{s.port}" for s in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER}/0"

    async def start(self) -> None:
        """Start all, and wait until every sentinel knows every replica and every other sentinel."""
        self.master.start()
        await self.master.ask("PING")
        for replica in self.replicas:
            replica.start()
        await self.synced(len(self.replicas))
        for sentinel in self.sentinels:
            sentinel.start()
        for sentinel in self.sentinels:
            await until(lambda s=sentinel: self._knows(s))  # type: ignore[misc]

    async def synced(self, replicas: int) -> None:
        """Until so many replicas have all that the master has."""

        async def followed() -> bool:
            _, _, following = await self.master.ask("ROLE")
            lines = await self.master.ask("INFO", "replication")
            return len(following) == replicas == lines.count(b"state=online")

        await until(followed)

    def stop(self) -> None:
        for process in (*self.sentinels, *self.replicas, self.master):
            process.kill()

    async def _knows(self, sentinel: Sentinel) -> bool:
        try:
            replicas = await sentinel.ask("SENTINEL", "REPLICAS", MASTER)
        except ReplyError:
            return False
        flat = await sentinel.ask("SENTINEL", "MASTER", MASTER)
        state = dict(zip(flat[::2], flat[1::2], strict=True))
        # `slave` alone: it answers, and its link to the master is whole.
        flags = [dict(zip(r[::2], r[1::2], strict=True)) for r in replicas]
        whole = [f for f in flags if f[b"flags"] == b"slave" and f[b"master-link-status"] == b"ok"]
        others = int(state[b"num-other-sentinels"])
        return len(whole) == len(self.replicas) and others == len(self.sentinels) - 1


async def until(holds: Any, timeout_s: float = 60.0) -> None:
    """Until `holds()` is true, asked again and again: what changes is in other processes."""
    deadline = time.monotonic() + timeout_s
    while not await holds():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.02)


async def messages_on(link: RedisLink, stream: str, *, given: bool = False) -> int:
    """How many messages lie in a ready stream; `given`: how many of those that workers have been given."""
    end: str | bytes = "+"
    if given:
        [group] = await link.call("XINFO", "GROUPS", stream)
        end = dict(zip(group[::2], group[1::2], strict=True))[b"last-delivered-id"]
    entries = await link.call("XRANGE", stream, "-", end)
    return sum(len(payloads_of(fields[1])) for _, fields in entries)
