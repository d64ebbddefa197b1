"""What fairness costs: CPU of Redis a message beside an engine that is first come, first served.

    .venv/bin/python -m benchmarks.fair_cost [--organisations 1,100,1000] [--messages 200000] [--rounds 3]

Takes about half a minute for each round of each number of organisations, and a minute more for each 5,000
organisations. Two whole engines with everything on, each write synced, of which one works at a time: one as
it is, and one where all that waits lies in one stream (`benchmarks.first_come`). Batches of 50 messages of
one organisation each are accepted, the organisations in random order, while the provider is paused. Then
they are sent to the provider, which is simulated. All CPU of Redis counts: letting in, reading, settling,
the ledger, the archiver, and the process that rewrites its file.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import ExitStack
from random import Random
from typing import NamedTuple

import aiohttp
import msgspec

from benchmarks.arguments import count_from_1, parser_of, several
from benchmarks.running import Engine, engine

_CONFIG = """
[roles]
ingest = 1
[limits]
backlog_max = 1000000000
[[providers]]
type = "simulated"
name = "sim"
"""
BATCH = 50
_CLIENTS = 8
# From a pause or a resume until it is in force in every worker, and after the last message until all that is
# recorded of it has been read, seconds.
_IN_FORCE_S, _SETTLE_S = 1.0, 2.0


class Cost(NamedTuple):
    """CPU of Redis a message, µs: to let it in, and from then on."""

    admitted: float
    sent: float


async def fill(running: Engine, batches: list[str]) -> None:
    """Have a batch accepted for each of these keys."""
    text = "Your order 4711 has been sent and arrives tomorrow between 9 and 12. Thank you!"
    body = msgspec.json.encode({"messages": [{"to": "+4915112345678", "text": text}] * BATCH})
    left = list(reversed(batches))
    async with aiohttp.ClientSession() as session:

        async def send() -> None:
            while left:
                headers = {"Authorization": f"Bearer {left.pop()}", "Content-Type": "application/json"}
                async with session.post(
                    f"{running.url}/v1/messages/batch", data=body, headers=headers
                ) as answer:
                    if answer.status != 202:
                        raise SystemExit(f"{answer.status}: {await answer.text()}")
                    await answer.read()

        await asyncio.gather(*(send() for _ in range(_CLIENTS)))


def waiting(running: Engine) -> int:
    """Messages of `normal` that are not sent."""
    found = running.call("GET", "/v1/admin/status")["queues"]["normal"]
    return int(found["waiting"] + found["in_hand"])


def measured(running: Engine, batches: list[str]) -> Cost:
    """Let a backlog come, and be sent."""
    messages = BATCH * len(batches)
    running.call("POST", "/v1/admin/providers/sim/pause")
    time.sleep(_IN_FORCE_S)
    cpu_s = running.cpu_s()["redis"]
    asyncio.run(fill(running, batches))
    time.sleep(_SETTLE_S)
    filled_s = running.cpu_s()["redis"]
    running.call("POST", "/v1/admin/providers/sim/resume")
    while waiting(running):
        time.sleep(0.3)
    time.sleep(_SETTLE_S)
    sent_s = running.cpu_s()["redis"]
    return Cost((filled_s - cpu_s) / messages * 1e6, (sent_s - filled_s) / messages * 1e6)


def main() -> None:
    """Run it."""
    parser = parser_of("fair_cost", __doc__)
    parser.add_argument("--organisations", type=several(count_from_1), default=[1, 100, 1000])
    parser.add_argument("--messages", type=count_from_1, default=200_000)
    parser.add_argument("--rounds", type=count_from_1, default=3)
    args = parser.parse_args()
    with ExitStack() as stack:
        ways = {
            "fair": stack.enter_context(engine(_CONFIG)),
            "first come": stack.enter_context(engine(_CONFIG, module="benchmarks.first_come")),
        }
        most = max(args.organisations)
        units = 10 * args.rounds * len(args.organisations) * args.messages
        keys = {way: running.organisations(most, units) for way, running in ways.items()}
        for organisations in args.organisations:
            each = max(1, args.messages // BATCH // organisations)
            found: dict[str, list[Cost]] = {way: [] for way in ways}
            for number in range(args.rounds):
                for way in sorted(ways, reverse=number % 2 == 1):
                    batches = keys[way][:organisations] * each
                    Random(number).shuffle(batches)
                    found[way].append(measured(ways[way], batches))
            write(organisations, each * BATCH, found)


def write(organisations: int, each: int, found: dict[str, list[Cost]]) -> None:
    """Print what was found."""
    ratio = statistics.median(
        sum(fair) / sum(plain) for fair, plain in zip(found["fair"], found["first come"], strict=True)
    )
    line = f"{organisations:6d} organisations of {each:6d}:"
    for way, costs in found.items():
        admitted, sent = (statistics.median(part) for part in zip(*costs, strict=True))
        line += f"  {way} {admitted:.2f} + {sent:.2f} µs"
    print(f"{line}  {ratio:.2f} times", flush=True)


if __name__ == "__main__":
    main()
