"""How long express and organisations that send little wait, alone and beside one organisation's long backlog.

    python -m benchmarks.isolation [--backlog 1000000] [--throughput 0,2000] [--nodes 1]

Takes three minutes for each throughput. A whole engine with everything on, and an SMSC that accepts
everything. Some organisations send a message now and then, and so does express. The time is from the POST
to the SMSC's answer. It is measured with nothing else to do, and again while another organisation's backlog
is sent, which was accepted while the provider was paused; each with an SMSC whose answers take as long as a
provider's (`--answers`), and with one that answers at once, which shows the engine's own part alone. There
are figures for express, for organisations in the shard of the backlog, and for others. With several nodes,
they share the stores, and each is sent its part of the calls.

The figures go to docs/reports/isolation.md, with a plot, and to benchmarks/results/isolation.jsonl.
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
import uvloop

from benchmarks.isolation_report import Found, Wait, write_report
from benchmarks.results import REPORTS, note
from benchmarks.running import Engine, engine
from engine.capacity import response_times
from engine.shards import shard_of
from supervisor.embedded.servers import start_all

_CONFIG = """
{node}
[limits]
backlog_max = 1000000000
[queues.express]
concurrency = {slots}
[queues.normal]
concurrency = {slots}
[[providers]]
name = "smsc"
type = "smpp"
host = "127.0.0.1"
port = {port}
system_id = "bench"
password = "bench"
window = {slots}
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
# Sends in flight in each worker, and in its SMPP session.
_SLOTS = 1000
_SHARDS = 16
# So many organisations are made, of which so many send in the shard of the backlog, and in others, at most.
_MADE, _LIGHT = 160, 20
BATCH = 1000
_FILLERS = 4
# Numbers of messages whose time is noted: of express, and of organisations that send little.
_EXPRESS, _NORMAL = "4915", "4916"
# After the last message of a probe, seconds; and from the begin of the backlog's sending to a probe.
_SETTLE_S, _BEGUN_S = 3.0, 3.0


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
        prefix = _EXPRESS if queue == "express" else _NORMAL
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

    def answer_after(self, points: Sequence[tuple[float, float]]) -> None:
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


def light_keys(keys: Sequence[str], heavy: str) -> list[str]:
    """Keys of organisations in the shard of `heavy` and of as many in others, in turn."""
    shard = shard_of(organisation_of(heavy), _SHARDS)
    same = [key for key in keys if shard_of(organisation_of(key), _SHARDS) == shard][:_LIGHT]
    other = [key for key in keys if shard_of(organisation_of(key), _SHARDS) != shard][: len(same)]
    return [key for pair in zip(same, other, strict=True) for key in pair]


async def fill(url: str, key: str, messages: int, queue: str = "normal") -> None:
    """Have a backlog accepted."""
    some = [{"to": f"+98912{n:07d}", "text": "campaign", "queue": queue} for n in range(BATCH)]
    body, left = msgspec.json.encode({"messages": some}), [None] * (messages // BATCH)
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


@contextlib.contextmanager
def started(nodes: int, port: int, throughput: float) -> Iterator[list[Engine]]:
    """So many nodes; several share stores."""
    rate = f"throughput = {throughput}" if throughput else ""

    def config(node: str) -> str:
        return _CONFIG.format(node=node, port=port, throughput=rate, slots=_SLOTS)

    with contextlib.ExitStack() as stack:
        if nodes == 1:
            yield [stack.enter_context(engine(config("")))]
            return
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smsengine-bench-")))
        place.chmod(0o755)
        servers = start_all(place / "stores", {"postgres", "redis", "clickhouse"})
        for server in servers.values():
            stack.callback(server.stop, 10)
        urls = {store: server.url for store, server in servers.items()}
        settings = [_NODE.format(name=f"node{n}", **urls) for n in range(nodes)]
        yield [stack.enter_context(engine(config(node))) for node in settings]


def waiting(node: Engine) -> int:
    """Messages of `normal` that wait."""
    found: int = node.call("GET", "/v1/admin/status")["queues"]["normal"]["waiting"]
    return found


def measure(given: argparse.Namespace, throughput: float) -> Found:
    """All probes before a provider with this throughput, 0: without a limit."""
    points = [(part, times.quantile_s(part) * 1e3) for times in [response_times.parse(given.answers)]
              for part in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999)]  # fmt: skip
    providers = {given.answers: points, "at once": []}
    waits: list[Wait] = []
    command = [sys.executable, "-m", "benchmarks.timed_smsc", _EXPRESS, _NORMAL]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        smsc = Smsc(process)
        with started(given.nodes, smsc.port, throughput) as nodes:
            first = nodes[0]
            heavy, *others = first.organisations(_MADE, 10 * given.backlog)
            probe = Probe(nodes, light_keys(others, heavy), organisation_of(heavy), given.every_ms / 1000)
            uvloop.run(probe.run(3.0))  # warms up

            def probed(when: str) -> None:
                for provider, answers in providers.items():
                    smsc.answer_after(answers)
                    time.sleep(_BEGUN_S)
                    sent = uvloop.run(probe.run(given.seconds))
                    time.sleep(_SETTLE_S)
                    waits.extend(waits_of(when, provider, sent, smsc.answered_s()))

            probed("alone")
            first.call("POST", "/v1/admin/providers/smsc/pause")
            time.sleep(2.0)
            uvloop.run(fill(first.url, heavy, given.backlog))
            smsc.answer_after(providers[given.answers])
            first.call("POST", "/v1/admin/providers/smsc/resume")
            began_s, began = time.monotonic(), waiting(first)
            probed("beside")
            left, took_s = waiting(first), time.monotonic() - began_s
        process.stdin.close()  # type: ignore[union-attr]
    return Found(
        throughput=throughput,
        nodes=given.nodes,
        answers=given.answers,
        backlog=began,
        left=left,
        sent_per_s=round((began - left) / took_s),
        waits=waits,
    )


def waits_of(when: str, provider: str, sent: dict[str, Sent], answered_s: dict[str, float]) -> list[Wait]:
    """How long each kind of message took."""
    by: dict[str, list[float]] = {}
    for number, (who, at_s) in sent.items():
        by.setdefault(who, []).append((answered_s.get(number, float("inf")) - at_s) * 1000)
    found = []
    for who, took_ms in sorted(by.items()):
        took_ms.sort()
        p50, p99 = took_ms[len(took_ms) // 2], took_ms[int(len(took_ms) * 0.99)]
        found.append(
            Wait(when=when, provider=provider, who=who, messages=len(took_ms), p50_ms=p50, p99_ms=p99)
        )
        print(f"{when:7} {provider:32} {who:13} {len(took_ms):5} messages   p50 {p50:7.1f}   p99 {p99:7.1f}",
              flush=True)  # fmt: skip
    return found


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(prog="benchmarks.isolation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--backlog", type=int, default=1_000_000, help="messages (default 1000000)")
    parser.add_argument("--throughput", default="0,2000", help="segments a second, 0: no limit")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=12, help="of each probe (default 12)")
    parser.add_argument("--every-ms", type=float, default=12, help="from a message to the next (default 12)")
    parser.add_argument("--answers", default="p50=80ms,p90=150ms,p99=900ms", help="of the provider")
    parser.add_argument("--report", type=Path, default=REPORTS, help="folder of the report (docs/reports)")
    given = parser.parse_args()
    found = []
    for throughput in map(float, given.throughput.split(",")):
        found.append(measure(given, throughput))
        note("isolation", found[-1])
        if found[-1].left < 1000:
            print("The backlog ended before the probes: give it more, or fewer --seconds.")
    write_report(found, given.report)
    print(f"{given.report}/isolation.md")


if __name__ == "__main__":
    main()
