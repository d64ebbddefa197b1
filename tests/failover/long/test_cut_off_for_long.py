"""A node without a network for longer than it takes to be fenced, in a network namespace of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from engine.credit.group_commit import UNKNOWN_S
from engine.credit.redis_answers import SILENT_S
from engine.redis_keys import holders_key
from engine.stores.redis.link import load_functions
from tests.credit.test_credit import accepted, drafts, render, world
from tests.failover.machine import Machine, machine
from tests.failover.servers import Process, until
from tests.failover.test_cut_off import queued

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def away() -> Iterator[Machine]:
    with machine() as made:
        yield made


@pytest.fixture
def redis(tmp_path: Path, away: Machine) -> Iterator[Process]:
    server = Process(tmp_path, ["--bind", "127.0.0.1", away.near, "--protected-mode", "no"])
    server.start()
    yield server
    server.kill()


class Node:
    """The process in the namespace, and what it has answered."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.sent = 0

    def submit(self, organisation_id: int, count: int) -> None:
        assert self.process.stdin is not None
        self.sent += 1
        self.process.stdin.write(f"submit {self.sent} {organisation_id} {count}\n".encode())

    async def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return dict(json.loads(await self.process.stdout.readline()))

    async def quit(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"quit\n")
        async with asyncio.timeout(20):
            await self.process.wait()


async def test_a_node_that_was_cut_off_until_it_was_fenced_sends_nothing_of_what_it_refused(
    away: Machine, redis: Process, books_url: str
) -> None:
    async with world(redis.url, books_url) as w:
        await load_functions(w.link)
        await w.ledger(overdue_s=5.0)
        other, _ = await w.holder("here")
        org = await w.organisation(10_000)
        url = f"redis://{away.near}:{redis.port}/0"
        command = away.command(sys.executable, "-m", "tests.failover.ingest_node", url, "cut", "1")
        node = Node(
            await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL
            )
        )
        assert (await node.answer())["ready"]
        node.submit(org, 10)
        assert (await node.answer())["accepted"] == 10
        # Its heartbeat and what it asks for are answered.
        await asyncio.sleep(0.6)
        away.swallow()
        node.submit(org, 1)
        await asyncio.sleep(0.1)
        for _ in range(12):
            node.submit(org, 1)
        answers = [await node.answer() for _ in range(13)]
        kinds = [answer["kind"] for answer in answers]
        assert sorted(kinds) == ["Unavailable"] * 12 + ["Undecided"]
        assert max(a["took_s"] for a in answers if a["kind"] == "Unavailable") < SILENT_S + 1
        assert max(a["took_s"] for a in answers) < UNKNOWN_S + 1
        node.submit(org, 1)
        at_once = await node.answer()
        assert (at_once["kind"], at_once["took_s"] < 0.2) == ("Unavailable", True)

        async def fenced() -> bool:
            # Others go on meanwhile.
            assert accepted(await other.submit(org, drafts(1), render=render)) == 1
            return b"cut" not in await w.link.call("HKEYS", holders_key(0))

        await until(fenced)
        there = await queued(w)
        away.heal()

        async def accepts() -> bool:
            node.submit(org, 1)
            return bool((await node.answer())["accepted"] == 1)

        await until(accepts)
        assert await queued(w) == there + 1
        await node.quit()
        await w.clean()
