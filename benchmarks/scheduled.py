"""How late scheduled messages are sent, and what they cost Redis while they wait.

    python -m benchmarks.scheduled [--messages 20000] [--rate 1000] [--organisations 10] [--report]

Takes two minutes, and half an hour with --messages 1000000. A whole engine with everything on, and a
simulated provider without latency. All messages are accepted first, in batches, for organisations that have
the same number each. They are due from one instant on, `--rate` a second, in turns of the organisations; with
--rate 0 all at one instant. The memory is what Redis uses more once they wait and are archived. How late a
message is: from when it is due until a provider has taken it, by its exported event `sent`. When all are due
at one instant that is mostly how long it takes to send them, and the organisations should end together. With
--report the figures go to docs/reports/scheduled.md, which names the machine.
"""

from __future__ import annotations

import asyncio
import csv
import io
import os
import sys
import time
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import aiohttp
import msgspec
import redis
import uvloop

from benchmarks.arguments import count_from_1, from_0, parser_of
from benchmarks.results import REPORTS, machine
from benchmarks.running import Engine, engine, settled

_BATCH, _POSTING = 1000, 4
# Accepted a second on a slow machine, and the time before the first is due beside that, seconds.
_ACCEPTED_PER_S, _AHEAD_S = 1500, 20.0
_HEADING = """# Scheduled messages: how late, and what they cost while they wait

By `python -m benchmarks.scheduled {arguments} --report`, on {machine}. Its docstring says what is
measured. A load of the machine above the number of its cores is other work beside the engine: then the
lateness is an upper bound, and no figure of the engine alone. What waits costs Redis the same for each
message, so a million take a million times `redis octets a message`.

| | |
|---|---|
"""


class Lateness(NamedTuple):
    """Of one organisation: how late each of its messages was, in order, and how long after the first was
    due the last was sent, seconds."""

    late_s: list[float]
    ended_s: float

    def quantile(self, q: float) -> float:
        """Such a part of the messages was not later, seconds."""
        return self.late_s[min(len(self.late_s) - 1, int(q * len(self.late_s)))]


def dues_us(messages: int, rate: float, first_us: int) -> list[int]:
    """When each message is due, microseconds since 1970."""
    return [first_us + (int(i / rate * 1e6) if rate else 0) for i in range(messages)]


async def schedule(target: Engine, keys: Sequence[str], dues: Sequence[int]) -> float:
    """Submit a message for each time, in turns of the organisations: the seconds it took.

    Raises SystemExit when one is refused."""
    batches = [
        (key, own[start : start + _BATCH])
        for n, key in enumerate(keys)
        for own in [dues[n :: len(keys)]]
        for start in range(0, len(own), _BATCH)
    ]
    began = time.monotonic()
    async with aiohttp.ClientSession() as session:

        async def post() -> None:
            while batches:
                key, some = batches.pop()
                messages = [
                    {
                        "to": "+4915112345678",
                        "text": "hello",
                        "send_at": _rfc3339(at_us),
                        "reference": str(at_us),
                    }
                    for at_us in some
                ]
                body = msgspec.json.encode({"messages": messages, "atomic": True})
                headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"{len(batches)}"}
                url = f"{target.url}/v1/messages/batch"
                while True:
                    async with session.post(url, data=body, headers=headers) as answer:
                        if answer.status == 202:
                            break
                        if answer.status != 503:
                            raise SystemExit(f"A batch was refused: {await answer.text()}")
                    await asyncio.sleep(1.0)

        async with asyncio.TaskGroup() as group:
            for _ in range(_POSTING):
                group.create_task(post())
    return time.monotonic() - began


def lateness(target: Engine, key: str, first_us: int) -> Lateness:
    """How late the messages of one organisation were, by its exported events."""
    now = datetime.now(UTC)
    until = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0) + timedelta(minutes=15)
    query = (
        f"rows=events&format=csv&from_time={_rfc3339(int((until - timedelta(hours=6)).timestamp() * 1e6))}"
    )
    request = urllib.request.Request(
        f"{target.url}/v1/reports/messages?{query}&until_time={_rfc3339(int(until.timestamp() * 1e6))}",
        headers={"Authorization": f"Bearer {key}"},
    )
    late, last = list[float](), first_us / 1e6
    with urllib.request.urlopen(request, timeout=600) as answer:
        for row in csv.DictReader(io.TextIOWrapper(answer, encoding="utf-8")):
            if row["event"] == "sent":
                sent_s = datetime.fromisoformat(row["at"]).timestamp()
                late.append(sent_s - int(row["reference"]) / 1e6)
                last = max(last, sent_s)
    return Lateness(sorted(late), last - first_us / 1e6)


def measure(messages: int, rate: float, organisations: int) -> dict[str, Any]:
    """Run it: the figures by name. Raises SystemExit when a message is refused or accepted too late."""
    load = round(os.getloadavg()[0], 1)
    with engine("[roles]\nexpress = 0\nnormal = 1\n") as target:
        keys = target.organisations(organisations, messages)
        store = redis.Redis.from_url(target.redis_url)
        idle = store.info("memory")["used_memory"]
        first_us = int((time.time() + messages / _ACCEPTED_PER_S + _AHEAD_S) * 1e6)
        taken_s = uvloop.run(schedule(target, keys, dues_us(messages, rate, first_us)))
        while target.call("GET", "/v1/admin/status")["activity"]["waiting_entries"]:
            time.sleep(0.5)
        waiting = store.info("memory")["used_memory"]
        if time.time() > first_us / 1e6:
            raise SystemExit("The first message was due before all were accepted; this machine is too busy.")
        left_s, span_s = first_us / 1e6 - time.time(), messages / rate if rate else 0.0
        print(
            f"{messages} wait, accepted in {taken_s:.0f} s; "
            f"they are due in {left_s:.0f} s, for {span_s:.0f} s",
            file=sys.stderr,
        )
        time.sleep(left_s)
        settled(target, messages, timeout_s=60 + messages / (rate or _ACCEPTED_PER_S) * 4)
        while target.call("GET", "/v1/admin/status")["activity"]["waiting_entries"]:
            time.sleep(0.5)
        found = [lateness(target, key, first_us) for key in keys]
        stats = target.simulator_stats()
    late = Lateness(sorted(s for of in found for s in of.late_s), max(of.ended_s for of in found))
    p99 = sorted(of.quantile(0.99) for of in found)
    return {
        "messages": messages,
        "due_per_s": rate or "all at one instant",
        "organisations": organisations,
        "load_of_the_machine_before": load,
        "accepted_per_s": round(messages / taken_s),
        "redis_octets_a_message": round((waiting - idle) / messages),
        "late_ms": {f"p{q}": round(late.quantile(q / 100) * 1000) for q in (50, 99)},
        "late_ms_max": round(late.late_s[-1] * 1000),
        "late_ms_p99_of_organisations": [round(p99[0] * 1000), round(p99[-1] * 1000)],
        "organisations_ended_s": [round(f(of.ended_s for of in found), 2) for f in (min, max)],
        "early": sum(s < 0 for s in late.late_s),
        "lost": messages - stats["distinct"],
        "doubled": stats["duplicates"],
    }


def main() -> int:
    """Measure, print the figures, and write the report when asked: the exit code."""
    parser = parser_of("scheduled", __doc__)
    parser.add_argument("--messages", type=count_from_1, default=20_000, help="how many (default 20000)")
    parser.add_argument("--rate", type=from_0, default=1000, help="due a second (default 1000); 0: at once")
    parser.add_argument("--organisations", type=count_from_1, default=10, help="how many (default 10)")
    parser.add_argument("--report", action="store_true", help="write docs/reports/scheduled.md")
    asked = parser.parse_args()
    found = measure(asked.messages, asked.rate, asked.organisations)
    lines = [
        f"| {name.replace('_', ' ')} | {msgspec.json.encode(value).decode()} |"
        for name, value in found.items()
    ]
    print("\n".join(lines))
    if asked.report:
        arguments = f"--messages {asked.messages} --rate {asked.rate:g} --organisations {asked.organisations}"
        heading = _HEADING.format(arguments=arguments, machine=machine())
        (REPORTS / "scheduled.md").write_text(heading + "\n".join(lines) + "\n", encoding="utf-8")
    return 1 if found["lost"] or found["doubled"] or found["early"] else 0


def _rfc3339(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    sys.exit(main())
