"""Whether organisations with a backlog share a queue by their weights, in every ten seconds.

    .venv/bin/python -m benchmarks.fair_shares --organisations 1000 --messages 1000 --seconds 60

Takes five minutes. A whole engine with the simulated provider. Each organisation has as many messages
waiting before any is sent, with weights of 1 to 4 in turn. Once a second the backlogs are looked at; for
every ten seconds in a row, what left each of them is held against its weight's part of what left all. A
message is one segment.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict

import aiohttp
import msgspec

from benchmarks.arguments import count_from_1, from_0, more_than_0, parser_of
from benchmarks.running import Engine, engine

_CONFIG = """
[roles]
ingest = 1
normal = {workers}
[[providers]]
type = "simulated"
name = "sim"
{throughput}
"""
_BATCH = 1000
_WINDOW_S = 10
_SETTLE_S = 3


class Moves(msgspec.Struct, frozen=True):
    """What left the backlogs between two looks."""

    seconds: float
    by: dict[int, int]


def weight_of(organisation: int) -> int:
    """The weight of the organisation with this number."""
    return 1 + organisation % 4


async def fill(running: Engine, keys: list[str], messages: int) -> None:
    """Give each organisation its backlog."""
    batch = min(messages, _BATCH)
    body = msgspec.json.encode({"messages": [{"to": "+4915112345678", "text": "hello"}] * batch})
    waiting = [key for key in keys for _ in range(messages // batch)]
    async with aiohttp.ClientSession() as session:

        async def send() -> None:
            while waiting:
                headers = {"Authorization": f"Bearer {waiting.pop()}", "Content-Type": "application/json"}
                async with session.post(f"{running.url}/v1/messages/batch", data=body, headers=headers) as r:
                    if r.status != 202:
                        raise SystemExit(f"{r.status}: {await r.text()}")
                    await r.read()

        await asyncio.gather(*(send() for _ in range(4)))


def look(running: Engine) -> tuple[float, dict[int, int]]:
    """(when, segments that wait by organisation id)."""
    found = running.call("GET", "/v1/admin/queues/normal")
    return time.monotonic(), {o["organisation_id"]: o["segments"] for o in found["organisations"]}


def watch(running: Engine, seconds: float) -> list[Moves]:
    """Look once a second for so long, or until somebody has nothing left."""
    moves = []
    at_s, before = look(running)
    end_s = at_s + seconds
    while at_s < end_s:
        time.sleep(max(0.0, 1.0 - (time.monotonic() - at_s)))
        now_s, now = look(running)
        if len(now) < len(before):
            break
        moves.append(Moves(now_s - at_s, {o: before[o] - now[o] for o in before}))
        at_s, before = now_s, now
    return moves


def report(moves: list[Moves], weights: dict[int, int]) -> None:
    """Print how far each organisation was from its share in any window."""
    whole = sum(weights.values())
    over: dict[int, list[float]] = defaultdict(list)
    messages: dict[int, list[float]] = defaultdict(list)
    for first in range(len(moves) - _WINDOW_S + 1):
        window = moves[first : first + _WINDOW_S]
        total = sum(sum(m.by.values()) for m in window)
        for organisation, weight in weights.items():
            fair = total * weight / whole
            got = sum(m.by[organisation] for m in window)
            over[weight].append(abs(got - fair) / fair)
            messages[weight].append(abs(got - fair))
    seconds = sum(m.seconds for m in moves)
    rate = sum(sum(m.by.values()) for m in moves) / seconds
    print(f"{rate:,.0f} messages a second over {seconds:.0f} s, {len(weights)} organisations")
    for weight in sorted(over):
        percents = sorted(over[weight])
        within = sum(p <= 0.1 for p in percents) / len(percents)
        print(
            f"weight {weight}: {rate * weight / whole * _WINDOW_S:6.1f} messages in 10 s; off by at most"
            f" {max(messages[weight]):.1f} messages, {100 * percents[-1]:.1f} %;"
            f" median {100 * statistics.median(percents):.1f} %; within 10 %: {100 * within:.2f} %"
        )


def main() -> None:
    """Run it."""
    parser = parser_of("fair_shares", __doc__)
    parser.add_argument("--organisations", type=count_from_1, default=1000)
    parser.add_argument("--messages", type=count_from_1, default=1000)
    parser.add_argument("--seconds", type=more_than_0, default=60)
    parser.add_argument("--workers", type=count_from_1, default=1)
    parser.add_argument("--throughput", type=from_0, default=0, help="segments a second; 0: no limit")
    args = parser.parse_args()
    throughput = f"throughput = {args.throughput}" if args.throughput else ""
    with engine(_CONFIG.format(workers=args.workers, throughput=throughput)) as running:
        keys = running.organisations(args.organisations, 10 * args.messages)
        ids = [int(key.split("_")[1]) for key in keys]
        # The first id is that of the demo organisation.
        weights = {i: weight_of(n) for n, i in enumerate(ids)}
        for organisation, weight in weights.items():
            running.call("PATCH", f"/v1/admin/organisations/{organisation}/limits", {"weight": weight})
        running.call("POST", "/v1/admin/providers/sim/pause")
        time.sleep(2)
        began_s = time.monotonic()
        asyncio.run(fill(running, keys, args.messages))
        print(f"filled in {time.monotonic() - began_s:.0f} s")
        running.call("POST", "/v1/admin/providers/sim/resume")
        time.sleep(_SETTLE_S)
        report(watch(running, args.seconds), weights)


if __name__ == "__main__":
    main()
