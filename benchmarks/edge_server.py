"""The role `ingest` alone: the HTTP API on a real Redis, without the other stores.

    python -m benchmarks.edge_server PATH REDIS_URL ORGANISATIONS     PATH: edge or aiohttp

It prints its port and the API keys of the organisations, and serves until it is terminated. Every
organisation has more quota than it will use; nobody reads what is admitted.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

import msgspec
import uvloop

from engine import api_keys
from engine.api.app import create_app
from engine.api.auth import Keys
from engine.api.edge.edge import Edge
from engine.api.ports import Services
from engine.api.request_counts import RequestCounts
from engine.api.server import Server
from engine.boot.ingest import assemble_ingest
from engine.config import Credit, Queues
from engine.intake.pricing import PriceTable
from engine.organisations import Credential
from engine.redis_keys import generation_key
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.link import RedisLink, load_functions

_SHARDS = 16
_UNITS = 10**12
_SECRET = "A" * 43


class _Directory:
    """Knows one key of each organisation, all with the same secret."""

    async def credentials(self, key_ids: Sequence[int]) -> dict[int, Credential]:
        """Those of the keys, by key id."""
        digest = api_keys.digest(_SECRET)
        return {k: Credential(key_id=k, organisation_id=k, secret_sha256=digest) for k in key_ids}


class _Unasked:
    """A service that has every attribute and that nobody asks for anything."""

    def __getattr__(self, name: str) -> _Unasked:
        return self


def _now_us() -> int:
    return time.time_ns() // 1000


def _services(**known: Any) -> Services:
    """Those that sending needs; the others are never asked."""
    nothing: dict[str, Any] = {f.name: _Unasked() for f in fields(Services) if f.default is MISSING}
    nothing |= {"receipt_readers": {}, "inbound_readers": {}, "now_us": _now_us, "counts": RequestCounts()}
    return Services(**(nothing | known))


async def _serve(path: str, redis_url: str, organisations: int) -> None:
    link = RedisLink(redis_url, timeout_s=5, name="commands")
    inbox = RedisLink(redis_url, timeout_s=5, name="inbox")
    await link.start()
    await inbox.start()
    await load_functions(link)
    for shard in range(_SHARDS):
        await link.call("SET", generation_key(shard), "benchmark")
    quota, ingest = assemble_ingest(
        RedisAdmission(link, inbox, _SHARDS),
        PriceTable({"": 1}),
        f"benchmark.{random.getrandbits(32):x}",
        Credit(validity_s=86400),
        Queues(),
        shards=_SHARDS,
        timeout_s=9.0,
        now_us=_now_us,
        rng=random.SystemRandom(),
    )
    await quota.start()
    for organisation_id in range(1, organisations + 1):
        quota.credit.grant(organisation_id, _UNITS)
    services = _services(
        ingest=ingest,
        directory=_Directory(),
        body_bytes_max=1 << 20,
        timeout_s=10.0,
        draining=asyncio.Event(),
    )
    keys = Keys(services.directory)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    front = Edge(services, keys) if path == "edge" else None
    server = Server(create_app(services, keys), listener, front)
    serving = asyncio.create_task(quota.run())
    await server.start()
    made = [api_keys.key_text(k, _SECRET) for k in range(1, organisations + 1)]
    print(msgspec.json.encode([listener.getsockname()[1], made]).decode(), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(1.0)
    serving.cancel()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
