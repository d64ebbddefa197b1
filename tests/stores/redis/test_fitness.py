"""Servers that the engine must not use, or not yet: each is one sentence, at `check` and at the start."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from engine.config import Config, Redis
from engine.errors import ConfigError, Unavailable
from engine.stores.redis.fitness import fitness_of
from engine.stores.redis.link import RedisLink, load_functions
from supervisor.cli.checks import _check_all
from supervisor.embedded.recipes import Valkey
from supervisor.embedded.servers import Server
from supervisor.prepare import _check_redis

Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with these arguments; its URL. One that only listens is ready."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> str:
        port = free_port()
        folder = tmp_path / str(port)
        folder.mkdir()
        program = str(Valkey().programs()[0])
        argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        started.append(subprocess.Popen([*argv, *arguments], stdout=subprocess.DEVNULL))
        return f"redis://127.0.0.1:{port}/0"

    yield start
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


async def check(url: str) -> tuple[bool, str]:
    found = {c.part: c for c in await _check_all(Config(redis=Redis(url=url)), "")}["redis"]
    return found.ok, found.detail


@pytest.fixture
async def ready() -> AsyncIterator[Callable[[str], object]]:
    async def ready(url: str) -> RedisLink:
        link = RedisLink(url, timeout_s=10, name="test")
        links.append(link)
        for _ in range(200):
            try:
                await link.call("PING")
                return link
            except Unavailable:
                continue
        raise AssertionError("The server does not start.")

    links: list[RedisLink] = []
    yield ready
    for link in links:
        await link.close()


async def test_cluster_mode_is_refused(start: Start, ready: Callable[[str], object]) -> None:
    # Without one of its own, the bus has the server's port and 10,000, which may be no port.
    url = start("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--appendonly", "yes")
    await ready(url)  # type: ignore[misc]
    ok, detail = await check(url)
    assert not ok
    assert "cluster mode" in detail
    assert "name a single server" in detail
    with pytest.raises(ConfigError, match="cluster mode"):
        await _check_redis(Config(redis=Redis(url=url)))


async def test_a_replica_is_refused_with_the_address_of_its_master(
    start: Start, ready: Callable[[str], object], redis_server: Server
) -> None:
    master = start("--appendonly", "yes")
    await ready(master)  # type: ignore[misc]
    port = urlsplit(master).port
    url = start("--replicaof", "127.0.0.1", str(port), "--appendonly", "yes")
    await ready(url)  # type: ignore[misc]
    ok, detail = await check(url)
    assert not ok
    assert (
        f"Redis is a replica, and what is written to it is lost; name its master (127.0.0.1:{port})" in detail
    )
    # A failover may be under way, so the start is tried again.
    with pytest.raises(Unavailable, match="is a replica"):
        await _check_redis(Config(redis=Redis(url=url)))


async def test_what_may_lose_messages_is_a_warning(start: Start, ready: Callable[[str], object]) -> None:
    url = start("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
    link = await ready(url)  # type: ignore[misc]
    await load_functions(link)
    ok, detail = await check(url)
    assert ok
    assert "appendonly is off" in detail
    assert "maxmemory-policy is allkeys-lru" in detail
    assert "maxmemory is 0: what waits while ClickHouse is away may take all memory" in detail
    with capture_logs() as lines:
        await _check_redis(Config(redis=Redis(url=url)))
    assert len([line for line in lines if line["log_level"] == "warning"]) == 3


def test_the_server_that_comes_with_the_engine_is_fit(redis_server: Server) -> None:
    parts = urlsplit(redis_server.url)
    with socket.create_connection((parts.hostname, parts.port)) as s:
        s.sendall(f"AUTH {parts.password}\r\nINFO\r\n".encode())
        info = b""
        while b"db" not in info and b"# Keyspace" not in info:
            info += s.recv(1 << 16)
    assert fitness_of(info) == fitness_of(b"aof_enabled:1\r\nmaxmemory:1\r\nmaxmemory_policy:noeviction")
    assert not fitness_of(info).warnings
