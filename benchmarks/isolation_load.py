"""The load of `benchmarks.isolation`: its backlogs, what is sent now and then, and the SMSC that times it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from itertools import count, cycle, islice
from random import Random
from typing import NamedTuple

import aiohttp
import msgspec

from benchmarks.running import Engine
from engine.shards import shard_of

# (part, milliseconds) of how long answers take; none: no time.
Points = Sequence[tuple[float, float]]
_SHARDS = 16
# So many send in the shard of the backlog, and in others, at most, if it is not said how many send.
_LIGHT = 20
BATCH, _OF_SEVERAL = 1000, 50
_FILLERS = 4
# Numbers of messages whose time is noted: of express, of organisations that send little, and those that wait.
EXPRESS, NORMAL, WAITED = "4915", "4916", "4917"


class Sent(NamedTuple):
    """A message of a probe: whose, and when its POST began, UTC seconds."""

    who: str
    at_s: float


class Probe:
    """Sends messages now and then: each in turn of express and of an organisation that sends little."""

    def __init__(self, nodes: Sequence[Engine], keys: Sequence[str], heavy: int, every_s: float) -> None:
        """`heavy`: the id of the organisation with a backlog. `every_s`: from one to the next, seconds."""
        self._urls = cycle([node.url for node in nodes])
        self._keys = {queue: cycle(keys) for queue in ("express", "normal")}
        self._heavy, self._every_s = heavy, every_s
        self._numbers = count()

    async def run(self, seconds: float) -> dict[str, Sent]:
        """Send for so long; what was sent, by number."""
        sent: dict[str, Sent] = {}
        end_s = time.time() + seconds
        async with aiohttp.ClientSession() as session:
            calls = []
            while time.time() < end_s:
                for queue in ("express", "normal"):
                    calls.append(asyncio.create_task(self._send(session, queue, sent)))
                await asyncio.sleep(self._every_s)
            await asyncio.gather(*calls)
        return sent

    async def _send(self, session: aiohttp.ClientSession, queue: str, sent: dict[str, Sent]) -> None:
        prefix = EXPRESS if queue == "express" else NORMAL
        number, key = f"{prefix}{next(self._numbers):08d}", next(self._keys[queue])
        who = "express"
        if queue == "normal":
            shard = shard_of(organisation_of(key), _SHARDS)
            who = "same shard" if shard == shard_of(self._heavy, _SHARDS) else "other shards"
        body = {"to": f"+{number}", "text": "hello", "queue": queue}
        sent[number] = Sent(who, time.time())
        url = f"{next(self._urls)}/v1/messages"
        async with session.post(url, json=body, headers={"Authorization": f"Bearer {key}"}) as answer:
            if answer.status != 202:
                raise SystemExit(f"{answer.status}: {await answer.text()}")


class Smsc:
    """The SMSC, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self.port = int(self._stdout.readline())

    def answer_after(self, points: Points) -> None:
        """Let answers take times of this distribution from now on; none: at once."""
        self._stdin.write(msgspec.json.encode(points).decode() + "\n")
        self._stdin.flush()

    def answered_s(self) -> dict[str, float]:
        """When each message of a probe was answered, by number, UTC seconds."""
        self._stdin.write("\n")
        self._stdin.flush()
        return msgspec.json.decode(self._stdout.readline(), type=dict[str, float])


def organisation_of(key: str) -> int:
    """The id of the organisation that an API key is of."""
    return int(key.split("_")[1])


def light_keys(keys: Sequence[str], heavy: str, organisations: int) -> list[str]:
    """Keys of those that send now and then, in turn: the last so many `organisations`, or, if that is 0,
    some in the shard of `heavy` and as many in others.
    """
    if organisations:
        return list(keys[-organisations:])
    shard = shard_of(organisation_of(heavy), _SHARDS)
    same = [key for key in keys if shard_of(organisation_of(key), _SHARDS) == shard][:_LIGHT]
    other = [key for key in keys if shard_of(organisation_of(key), _SHARDS) != shard][: len(same)]
    return [key for pair in zip(same, other, strict=True) for key in pair]


async def fill(url: str, keys: list[str], messages: int, queue: str = "normal") -> None:
    """Have a backlog of so many messages accepted, alike of each of `keys`; of several, fifty at a time."""
    batch = BATCH if len(keys) == 1 else _OF_SEVERAL
    some = [{"to": f"+98912{n:07d}", "text": "campaign", "queue": queue} for n in range(batch)]
    body = msgspec.json.encode({"messages": some})
    batches = list(islice(cycle(keys), messages // batch))
    Random(1).shuffle(batches)
    await _send_all(url, [(key, body) for key in batches])


async def fill_light(url: str, keys: Sequence[str], each: int, first: int) -> dict[str, int]:
    """Have `each` messages of each organisation accepted, to numbers from `first` on: by number, which of its
    organisation's it is, from 0."""
    numbers = {f"{WAITED}{first + n:08d}": n % each for n in range(len(keys) * each)}
    to = iter(numbers)
    some = [[{"to": f"+{next(to)}", "text": "hello"} for _ in range(each)] for _ in keys]
    await _send_all(
        url, [(key, msgspec.json.encode({"messages": m})) for key, m in zip(keys, some, strict=True)]
    )
    return numbers


async def _send_all(url: str, batches: list[tuple[str, bytes]]) -> None:
    """`batches`: API keys and bodies. Ends the process when one is not accepted."""
    left = list(reversed(batches))
    async with aiohttp.ClientSession() as session:

        async def send() -> None:
            while left:
                key, body = left.pop()
                headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
                async with session.post(f"{url}/v1/messages/batch", data=body, headers=headers) as answer:
                    if answer.status != 202:
                        raise SystemExit(f"{answer.status}: {await answer.text()}")
                    await answer.read()

        await asyncio.gather(*(send() for _ in range(_FILLERS)))
