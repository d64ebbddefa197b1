"""Reload after reload under load: no request fails, no message is lost or sent twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.operations.customers import assert_none_lost
from tests.system.client import fetch
from tests.system.conftest import Engine, start_engine

RELOADS = int(os.environ.get("RELOADS", "20"))
PER_S = float(os.environ.get("RATE", "2000"))
CONNECTIONS = 100
CONFIG = '[roles]\ningest = 2\n\n[[providers]]\nname = "simulated"\n'


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "smsengine.toml").write_text(CONFIG)
    engine = start_engine(tmp_path / "data", ("--demo", "--config", tmp_path / "smsengine.toml"))
    yield engine
    code = engine.stop()
    engine.kill()
    assert code == 0


class Load:
    """Requests at even distances, each sent once, over connections that are kept as long as may be."""

    def __init__(self, engine: Engine) -> None:
        self.accepted: list[str] = []
        self.failures: Counter[str] = Counter()
        self.enough = False
        parts = urlsplit(engine.url)
        self._address = parts.hostname, parts.port
        head = (
            f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {engine.api_key}\r\n"
            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        )
        bodies = [
            json.dumps({"to": "+989121234567", "text": "Your code is 4711", "queue": queue})
            for queue in ("express", "normal")
        ]
        self._requests = [(head % (len(body), body)).encode() for body in bodies]

    async def run(self) -> None:
        """Send until there is enough."""
        await asyncio.gather(*(self._connection(n) for n in range(CONNECTIONS)))

    async def _connection(self, number: int) -> None:
        pause_s = CONNECTIONS / PER_S
        due = time.monotonic() + pause_s * number / CONNECTIONS
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.enough:
            await asyncio.sleep(due - time.monotonic())
            due += pause_s
            try:
                streams = streams or await asyncio.open_connection(*self._address)
                if await self._send(*streams, self._requests[number % 2]):
                    streams[1].close()
                    streams = None
            except (OSError, EOFError) as e:
                self.failures[repr(e)] += 1
                streams = None
        if streams is not None:
            streams[1].close()

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        """One request; whether its answer asks for the connection to be closed."""
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        if head.startswith(b"http/1.1 202"):
            self.accepted.append(json.loads(body)["id"])
        else:
            self.failures[f"{head[:12]!r} {body[:200]!r}"] += 1
        return b"connection: close" in head


async def reload(engine: Engine) -> None:
    """One reload, to its end."""
    before = engine.log.read_text().count("reloaded ")
    os.kill(engine.pid, signal.SIGHUP)
    async with asyncio.timeout(60):
        while engine.log.read_text().count("reloaded ") == before:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.1)


async def test_twenty_reloads_under_load_fail_no_request_and_lose_or_double_no_message(
    victim: Engine,
) -> None:
    load = Load(victim)
    began = time.monotonic()
    sending = asyncio.create_task(load.run())
    for _ in range(RELOADS):
        await reload(victim)
    seconds = time.monotonic() - began
    load.enough = True
    await sending
    print(  # noqa: T201 - what a run saw
        f"{RELOADS} reloads in {seconds:.0f} s, {len(load.accepted) / seconds:.0f} requests a second, "
        f"failures {dict(load.failures)}"
    )
    assert load.failures == {}
    await asyncio.to_thread(assert_none_lost, victim, load.accepted)
    assert fetch(f"{victim.simulator_url}/stats")["received"] == len(load.accepted), "none was sent twice"
