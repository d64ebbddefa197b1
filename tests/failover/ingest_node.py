"""A node by itself, to be run in a network namespace: commands come on stdin, answers go as JSON to stdout.

python -m tests.failover.ingest_node REDIS_URL NAME ACCEPTED_ON
submit NUMBER ORGANISATION COUNT   ->   {"number": …, "kind": …, "accepted": …, "took_s": …}
quit
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from contextlib import suppress

import structlog

from engine.boot.ingest import assemble_ingest
from engine.config import Credit, Queues
from engine.errors import Unavailable
from engine.intake.ingest import Ingest
from engine.intake.pricing import PriceTable
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.link import RedisLink
from tests.credit.test_credit import SHARDS, accepted, drafts, now_us, render


def say(**said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def submit(ingest: Ingest, number: int, organisation_id: int, count: int) -> None:
    began_s = time.monotonic()
    kind, got = "accepted", 0
    try:
        got = accepted(await ingest.submit(organisation_id, drafts(count), render=render))
    except Unavailable as e:
        kind = type(e).__name__
    say(number=number, kind=kind, accepted=got, took_s=time.monotonic() - began_s)


async def main(url: str, name: str, accepted_on: int) -> None:
    links = [RedisLink(url, timeout_s=5, name=purpose) for purpose in ("commands", "inbox")]
    for link in links:
        await link.start()
    quota, ingest = assemble_ingest(
        RedisAdmission(*links, SHARDS, accepted_on=accepted_on),
        PriceTable({"": 1}),
        name,
        Credit(),
        Queues(),
        shards=SHARDS,
        timeout_s=9.0,
        now_us=now_us,
        rng=random.SystemRandom(),
    )
    await quota.start()
    serving = asyncio.create_task(quota.run())
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    say(ready=True)
    tasks = set()
    while (line := (await reader.readline()).decode().split()) and line[0] == "submit":
        tasks.add(asyncio.create_task(submit(ingest, *map(int, line[1:]))))
    if tasks:
        await asyncio.wait(tasks)
    with suppress(Unavailable):
        await quota.leave()
    serving.cancel()
    await asyncio.wait([serving])
    for link in links:
        await link.close()


if __name__ == "__main__":
    # What is said is on stdout, and nothing else.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
