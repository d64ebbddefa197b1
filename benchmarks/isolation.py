"""How long express and organisations that send little wait, alone and beside one organisation's long backlog.

    .venv/bin/python -m benchmarks.isolation [--backlog 300000] [--throughput 2000] [--nodes 2]

Takes two minutes, ten with a million messages. A whole engine with everything on, and an SMSC that accepts
everything at once. Some organisations send a message now and then, and so does express. The time is from
the POST to the SMSC. It is measured with nothing else to do; then again while another organisation's
backlog is sent, which was accepted while the provider was paused. Lines are printed for express, for the
organisations in the shard of the backlog, and for the others. With two nodes, they share the stores, and
each is sent half of the calls.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from benchmarks.running import Engine, engine
from engine.shards import shard_of
from supervisor.embedded.servers import start_all

_CONFIG = """
{node}
[[providers]]
name = "smsc"
type = "smpp"
host = "127.0.0.1"
port = {port}
system_id = "bench"
password = "bench"
{throughput}
[[routes]]
prefix = ""
providers = ["smsc"]
"""
_NODE = """
node = "{name}"
[postgres]
url = "{postgres}"
[redis]
url = "{redis}"
[clickhouse]
url = "{clickhouse}"
"""
_SHARDS = 16
_LIGHT = 40
_BATCH = 1000
_FILLERS = 4
# Numbers of messages whose time is noted: of express, and of organisations that send little.
_EXPRESS, _NORMAL = "4915", "4916"
# After the last message of a probe, seconds.
_SETTLE_S = 3.0


class Sent(NamedTuple):
    """A message of a probe: whose, and when its POST began, UTC seconds."""

    who: str
    at_s: float


class Probe:
    """Sends messages now and then: each in turn of express and of an organisation that sends little."""

    def __init__(self, nodes: Sequence[Engine], keys: Sequence[str], heavy: int, every_s: float) -> None:
        """`heavy`: the id of the organisation with a backlog. `every_s`: from one to the next, seconds."""
        self._urls = cycle([node.url for node in nodes])
        self._keys, self._heavy, self._every_s = cycle(keys), heavy, every_s
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
        number, key = (
            f"{_EXPRESS if queue == 'express' else _NORMAL}{next(self._numbers):08d}",
            next(self._keys),
        )
        who = "express"
        if queue == "normal":
            shard = shard_of(organisation_of(key), _SHARDS)
            who = "same shard" if shard == shard_of(self._heavy, _SHARDS) else "others"
        body = {"to": f"+{number}", "text": "hello", "queue": queue}
        sent[number] = Sent(who, time.time())
        url = f"{next(self._urls)}/v1/messages"
        async with session.post(url, json=body, headers={"Authorization": f"Bearer {key}"}) as answer:
            if answer.status != 202:
                raise SystemExit(f"{answer.status}: {await answer.text()}")


def organisation_of(key: str) -> int:
    """The id of the organisation that an API key is of."""
    return int(key.split("_")[1])


async def fill(url: str, key: str, messages: int, queue: str = "normal") -> None:
    """Have a backlog accepted."""
    some = [{"to": f"+98912{n:07d}", "text": "campaign", "queue": queue} for n in range(_BATCH)]
    body, left = msgspec.json.encode({"messages": some}), [None] * (messages // _BATCH)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session:

        async def send() -> None:
            while left:
                left.pop()
                async with session.post(f"{url}/v1/messages/batch", data=body, headers=headers) as answer:
                    if answer.status != 202:
                        raise SystemExit(f"{answer.status}: {await answer.text()}")
                    await answer.read()

        await asyncio.gather(*(send() for _ in range(_FILLERS)))


def report(when: str, sent: dict[str, Sent], came_s: dict[str, float]) -> None:
    """Print how long each kind of message took."""
    by: dict[str, list[float]] = {}
    for number, (who, at_s) in sent.items():
        by.setdefault(who, []).append((came_s.get(number, float("inf")) - at_s) * 1000)
    for who, took_ms in sorted(by.items()):
        took_ms.sort()
        p50, p99 = took_ms[len(took_ms) // 2], took_ms[int(len(took_ms) * 0.99)]
        print(
            f"{when:7} {who:11} {len(took_ms):5} messages   p50 {p50:7.1f}   p99 {p99:7.1f}"
            f"   most {took_ms[-1]:7.1f} ms",
            flush=True,
        )


@contextlib.contextmanager
def started(nodes: int, port: int, throughput: float) -> Iterator[list[Engine]]:
    """So many nodes; several share stores."""
    rate = f"throughput = {throughput}" if throughput else ""
    with contextlib.ExitStack() as stack:
        if nodes == 1:
            yield [stack.enter_context(engine(_CONFIG.format(node="", port=port, throughput=rate)))]
            return
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smsengine-bench-")))
        place.chmod(0o755)
        servers = start_all(place / "stores", {"postgres", "redis", "clickhouse"})
        for server in servers.values():
            stack.callback(server.stop, 10)
        urls = {store: server.url for store, server in servers.items()}
        settings = [_NODE.format(name=f"node{n}", **urls) for n in range(nodes)]
        yield [
            stack.enter_context(engine(_CONFIG.format(node=node, port=port, throughput=rate)))
            for node in settings
        ]


def waiting(node: Engine) -> int:
    """Messages of `normal` that wait."""
    found: int = node.call("GET", "/v1/admin/status")["queues"]["normal"]["waiting"]
    return found


def main() -> None:
    """Measure, and print a line for each kind of message."""
    parser = argparse.ArgumentParser(prog="benchmarks.isolation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--backlog", type=int, default=300_000, help="messages (default 300000)")
    parser.add_argument("--throughput", type=float, default=0, help="segments a second; 0: no limit")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10, help="of each of the two (default 10)")
    parser.add_argument(
        "--every-ms", type=float, default=25, help="from one message to the next (default 25)"
    )
    given = parser.parse_args()
    command = [sys.executable, "-m", "benchmarks.timed_smsc", _EXPRESS, _NORMAL]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as smsc:
        stdin, stdout = smsc.stdin, smsc.stdout
        assert stdin is not None
        assert stdout is not None

        def came_s() -> dict[str, float]:
            stdin.write("\n")
            stdin.flush()
            return msgspec.json.decode(stdout.readline(), type=dict[str, float])

        try:
            with started(given.nodes, int(stdout.readline()), given.throughput) as nodes:
                first = nodes[0]
                heavy, *light = first.organisations(_LIGHT + 1, 10 * given.backlog)
                probe = Probe(nodes, light, organisation_of(heavy), given.every_ms / 1000)
                asyncio.run(probe.run(3.0))  # warms up
                sent = asyncio.run(probe.run(given.seconds))
                time.sleep(_SETTLE_S)
                report("alone", sent, came_s())
                first.call("POST", "/v1/admin/providers/smsc/pause")
                time.sleep(2.0)
                asyncio.run(fill(first.url, heavy, given.backlog))
                before = waiting(first)
                first.call("POST", "/v1/admin/providers/smsc/resume")
                time.sleep(1.5)
                began_s, began = time.monotonic(), waiting(first)
                sent = asyncio.run(probe.run(given.seconds))
                left, took_s = waiting(first), time.monotonic() - began_s
                print(f"backlog {before}, {began} at the begin and {left} at the end of the second probe:"
                      f" {(began - left) / took_s:.0f} a second")  # fmt: skip
                if left < 1000:
                    print("The backlog ended before the probe: give it more, or fewer --seconds.")
                time.sleep(_SETTLE_S)
                report("beside", sent, came_s())
        finally:
            stdin.close()


if __name__ == "__main__":
    main()
