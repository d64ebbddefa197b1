"""How long express and organisations that send little wait, alone and beside long backlogs of others.

    python -m benchmarks.isolation [--backlog 1000000] [--throughput 0,2000] [--nodes 1]
    python -m benchmarks.isolation --heavy 100
    python -m benchmarks.isolation --backlog 300000 --organisations 10000 --waiting 3

Takes three minutes for each throughput, and one more for each 5,000 organisations. A whole engine with
everything on, and an SMSC that accepts everything. Some organisations send a message now and then, and so
does express. The time is from the POST to the SMSC's answer. It is measured with nothing else to do, and
again while a backlog of another organisation is sent, or of `--heavy` others, in all shards, with as many
messages together, which was accepted while the provider was paused; each
with an SMSC whose answers take as long as a provider's (`--answers`), and with one that answers at once,
which shows the engine's own part alone. There are figures for express, for organisations in the shard of the
backlog, and for others. With several nodes, they share the stores, and each is sent its part of the calls.

With `--organisations` so many send a message now and then, in turn. With `--waiting` each of them has so many
messages waiting as well when the backlog begins to be sent: then it is measured how long those take, and what
is sent now and then is of others, who have nothing waiting.

The figures go to docs/reports/isolation.md, with a plot, and to benchmarks/results/isolation.jsonl; those of
several nodes or of many organisations to a report of their own beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from benchmarks.arguments import (
    count_from_0,
    count_from_1,
    folder,
    from_0,
    more_than_0,
    parser_of,
    several,
    times,
)
from benchmarks.isolation_load import (
    EXPRESS,
    NORMAL,
    WAITED,
    Points,
    Probe,
    Sent,
    Smsc,
    fill,
    fill_light,
    light_keys,
    organisation_of,
)
from benchmarks.isolation_report import Drained, Found, Wait, report_name, write_report
from benchmarks.results import REPORTS, note
from benchmarks.running import Engine, cpu_s_of, descendants, engine
from engine.capacity import response_times
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
# So many organisations are made at least.
_MADE = 160
# After the last message of a probe, seconds; and from the begin of the backlog's sending to a probe.
_SETTLE_S, _BEGUN_S = 3.0, 3.0
# From a resume until it is in force in every worker, seconds.
_RESUMED_S = 1.0
# The probes take no more than this part of what a provider takes.
_PROBED = 0.2


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


def redis_cpu_s() -> float:
    """CPU that the Redis of the engines has used so far, seconds."""
    return sum(
        cpu_s_of(pid, ended=True)
        for pid in descendants(os.getpid())
        if b"valkey" in Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
    )


class Measuring:
    """All probes before a provider with one throughput."""

    def __init__(
        self, given: argparse.Namespace, nodes: Sequence[Engine], smsc: Smsc, every_s: float
    ) -> None:
        self._given, self._nodes, self._smsc = given, nodes, smsc
        self._first = nodes[0]
        made = max(_MADE, given.organisations) + (_MADE if given.waiting else 0) + given.heavy - 1
        keys = self._first.organisations(made, 10 * given.backlog)
        self._heavy, others = keys[: given.heavy], keys[given.heavy :]
        # Those that have messages waiting, and those that send now and then.
        self._waiting = others[: given.organisations] if given.waiting else []
        light = light_keys(
            others[len(self._waiting) :], self._heavy[0], 0 if given.waiting else given.organisations
        )
        self._probe = Probe(nodes, light, organisation_of(self._heavy[0]), every_s)
        self.waits: list[Wait] = []
        self.drained: list[Drained] = []
        uvloop.run(self._probe.run(3.0))  # warms up

    def alone(self, provider: str, answers: Points) -> None:
        """Probe while nobody else sends."""
        self._smsc.answer_after(answers)
        time.sleep(_BEGUN_S)
        self._probed("alone", provider)

    def back_up(self) -> None:
        """Pause the provider, and have the backlog accepted."""
        self._pause()
        uvloop.run(fill(self._first.url, self._heavy, self._given.backlog))

    def beside(self, provider: str, answers: Points) -> None:
        """Probe beside the backlog, whose sending begins now or has begun."""
        numbers: dict[str, int] = {}
        if self._waiting:
            self._pause()
            first = 10_000_000 * len(self.drained)
            numbers = uvloop.run(fill_light(self._first.url, self._waiting, self._given.waiting, first))
        self._smsc.answer_after(answers)
        self._first.call("POST", "/v1/admin/providers/smsc/resume")
        time.sleep(_RESUMED_S if numbers else _BEGUN_S)
        answered_s = self._probed("beside", provider)
        if numbers:
            self.drained.append(drained_of(provider, numbers, answered_s))

    def _pause(self) -> None:
        self._first.call("POST", "/v1/admin/providers/smsc/pause")
        time.sleep(2.0)

    def _probed(self, when: str, provider: str) -> dict[str, float]:
        sent = uvloop.run(self._probe.run(self._given.seconds))
        time.sleep(_SETTLE_S)
        answered_s = self._smsc.answered_s()
        self.waits.extend(waits_of(when, provider, sent, answered_s))
        return answered_s


def measure(given: argparse.Namespace, throughput: float) -> Found:
    """All probes before a provider with this throughput, 0: without a limit."""
    points = [(part, times.quantile_s(part) * 1e3) for times in [response_times.parse(given.answers)]
              for part in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999)]  # fmt: skip
    providers = {given.answers: points, "at once": []}
    every_s = given.every_ms / 1000
    if throughput:
        # Each time a message of express is sent, and one of normal.
        every_s = max(every_s, 2 / (_PROBED * throughput))
    command = [sys.executable, "-m", "benchmarks.timed_smsc", EXPRESS, NORMAL, WAITED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        smsc = Smsc(process)
        with started(given.nodes, smsc.port, throughput) as nodes:
            measuring = Measuring(given, nodes, smsc, every_s)
            for provider, answers in providers.items():
                measuring.alone(provider, answers)
            measuring.back_up()
            light = given.organisations * given.waiting * len(providers)
            began_s, began, cpu_s = time.monotonic(), waiting(nodes[0]), redis_cpu_s()
            for provider, answers in providers.items():
                measuring.beside(provider, answers)
            left, took_s, cpu_s = waiting(nodes[0]), time.monotonic() - began_s, redis_cpu_s() - cpu_s
        process.stdin.close()  # type: ignore[union-attr]
    probed = sum(w.messages for w in measuring.waits if w.when == "beside")
    sent = began + light - left
    return Found(
        throughput=throughput,
        nodes=given.nodes,
        heavy=given.heavy,
        answers=given.answers,
        organisations=given.organisations,
        waiting=given.waiting,
        backlog=began,
        left=left,
        sent_per_s=round(sent / took_s),
        redis_us=round(cpu_s * 1e6 / (sent + probed), 1),
        waits=measuring.waits,
        drained=measuring.drained,
    )


def drained_of(provider: str, numbers: dict[str, int], answered_s: dict[str, float]) -> Drained:
    """How long after the first what waited was answered: the first of each organisation, and all."""
    by = {number: answered_s.get(number, float("inf")) for number in numbers}
    began_s = min(by.values())
    by = {number: at_s - began_s for number, at_s in by.items()}
    took_s = sorted(by.values())
    firsts_s = sorted(by[number] for number, which in numbers.items() if not which)
    found = Drained(
        provider=provider,
        messages=len(took_s),
        sent=sum(t < float("inf") for t in took_s),
        first_p50_s=firsts_s[len(firsts_s) // 2],
        first_last_s=firsts_s[-1],
        p50_s=took_s[len(took_s) // 2],
        last_s=took_s[-1],
    )
    print(f"{found}", flush=True)
    return found


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
    parser = parser_of("isolation", __doc__)
    parser.add_argument("--backlog", type=count_from_1, default=1_000_000, help="messages (default 1000000)")
    parser.add_argument(
        "--throughput",
        type=several(from_0),
        default="0,2000",
        help="segments a second, 0: no limit",
    )
    parser.add_argument("--nodes", type=count_from_1, default=1)
    parser.add_argument(
        "--heavy", type=count_from_1, default=1, help="organisations that have the backlog (default 1)"
    )
    parser.add_argument("--seconds", type=more_than_0, default=12, help="of each probe (default 12)")
    parser.add_argument(
        "--every-ms", type=more_than_0, default=12, help="from a message to the next (default 12)"
    )
    parser.add_argument("--organisations", type=count_from_0, default=0, help="that send little (default 40)")
    parser.add_argument(
        "--waiting", type=count_from_0, default=0, help="messages of each that wait (default 0)"
    )
    parser.add_argument(
        "--answers", type=times, default="p50=80ms,p90=150ms,p99=900ms", help="of the provider"
    )
    parser.add_argument("--report", type=folder, default=REPORTS, help="folder of the report (docs/reports)")
    given = parser.parse_args()
    if given.waiting and not given.organisations:
        parser.error("--waiting needs --organisations")
    found = []
    for throughput in given.throughput:
        found.append(measure(given, throughput))
        note("isolation", found[-1])
        if found[-1].left < 1000:
            print("The backlog ended before the probes: give it more, or fewer --seconds.")
        write_report(found, given.report)
    print(f"{given.report}/{report_name(found[0])}.md")


if __name__ == "__main__":
    main()
