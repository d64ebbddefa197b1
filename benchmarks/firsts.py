"""What the first message of an organisation costs, which needs its key and its quota, beside the second.

    python -m benchmarks.firsts [--versions DIR ...] [--organisations 1500] [--rate 300] [--rounds 2]

Takes four minutes for each version. A demo engine with its defaults. In each round so many organisations,
of which nobody has sent anything, send one message each at this rate, and then the same send another one.
It prints the CPU that each process needed for a message, microseconds, how many commands Redis and how many
transactions PostgreSQL carried out for one, and how long the answers took. What runs whether or not anybody
sends is measured before, and taken off. `DIR` is the root of another version of the engine, which has an
engine of its own; each round tries the versions one after another, and medians are printed.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import asyncpg
import redis
import uvloop

from benchmarks.arguments import count_from_1, more_than_0, parser_of
from benchmarks.load import Load
from benchmarks.results import note
from benchmarks.running import Engine, engine, settled

_HERE = Path(__file__).resolve().parent.parent
_UNITS = 1000
# How long nobody sends while it is measured what runs anyway, and until what was sent is settled and stored.
_REST_S, _AFTER_S = 8.0, 4.0


class Used(NamedTuple):
    """What was used up to an instant."""

    at_s: float
    # CPU by process, seconds.
    cpu_s: dict[str, float]
    # Commands of Redis, by name.
    commands: dict[str, int]
    # Transactions of PostgreSQL.
    transactions: int


class Figures(NamedTuple):
    """Of one message, in the mean."""

    cpu_us: dict[str, float]
    commands: dict[str, float]
    transactions: float
    answer_ms: tuple[float, float]


class Version:
    """One engine, and the organisations that have not sent."""

    def __init__(self, target: Engine, organisations: int) -> None:
        self._target = target
        self._redis = redis.Redis.from_url(target.redis_url)
        self._keys = target.organisations(organisations, _UNITS)
        # By "first" and "second".
        self.found: dict[str, list[Figures]] = {}
        self._sent = 0

    def warm_up(self, keys: int, rate: float) -> None:
        """Let some of them send, which are not measured."""
        warm, self._keys = self._keys[:keys], self._keys[keys:]
        self._send(warm, rate)
        settled(self._target, self._sent, 60)
        time.sleep(_AFTER_S)

    def round(self, organisations: int, rate: float) -> None:
        """Let the next of them send twice."""
        keys, self._keys = self._keys[:organisations], self._keys[organisations:]
        began = self._used()
        time.sleep(_REST_S)
        rest = self._used()
        for which in ("first", "second"):
            before = self._used()
            answers = self._send(keys, rate)
            settled(self._target, self._sent, 60)
            time.sleep(_AFTER_S)
            self.found.setdefault(which, []).append(
                _figures(before, self._used(), began, rest, len(keys), answers)
            )

    def _send(self, keys: Sequence[str], rate: float) -> tuple[float, float]:
        """Let each send once: the median and the 99th of a hundred of the answers, milliseconds."""
        load = Load(self._target.url, keys, size=1, express_share=0.5, connections=64, seed=1)
        load.in_turn()
        uvloop.run(load.open(rate, len(keys) / rate))
        self._sent += load.tally.accepted
        if load.tally.trouble:
            raise SystemExit(f"Not all were accepted: {dict(load.tally.trouble)}")
        return load.tally.quantile_ms(0.5), load.tally.quantile_ms(0.99)

    def _used(self) -> Used:
        stats = self._redis.info("commandstats")
        commands = {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}
        transactions = uvloop.run(_transactions(self._target.postgres_url))
        return Used(time.monotonic(), self._target.cpu_s(), commands, transactions)


async def _transactions(url: str) -> int:
    """How many PostgreSQL has carried out so far."""
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT sum(xact_commit) FROM pg_stat_database"))
    finally:
        await connection.close()


def _figures(
    before: Used, after: Used, began: Used, rest: Used, messages: int, answers: tuple[float, float]
) -> Figures:
    """What of a message is not what runs anyway."""
    share = (after.at_s - before.at_s) / (rest.at_s - began.at_s)

    def of(before: dict[str, float], after: dict[str, float], began: dict[str, float],
           rest: dict[str, float]) -> dict[str, float]:  # fmt: skip
        return {
            name: (value - before.get(name, 0) - share * (rest.get(name, 0) - began.get(name, 0))) / messages
            for name, value in after.items()
        }

    cpu_us = of(before.cpu_s, after.cpu_s, began.cpu_s, rest.cpu_s)
    return Figures(
        {name: s * 1e6 for name, s in cpu_us.items()},
        of(dict(before.commands), dict(after.commands), dict(began.commands), dict(rest.commands)),
        ((after.transactions - before.transactions) - share * (rest.transactions - began.transactions))
        / messages,
        answers,
    )


def _medians(of: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one.get(name, 0.0) for one in of) for name in of[0]}


def show(name: str, found: dict[str, list[Figures]]) -> dict[str, float]:
    """Print the medians of a version: the CPU of a first and of a second message, microseconds."""
    totals = {}
    for which, figures in found.items():
        cpu = _medians([f.cpu_us for f in figures])
        totals[which] = sum(cpu.values())
        each = ", ".join(f"{p} {us:.0f}" for p, us in sorted(cpu.items(), key=lambda i: -i[1]) if us >= 10)
        p50, p99 = (statistics.median(f.answer_ms[i] for f in figures) for i in (0, 1))
        print(
            f"{name:<28} {which:<6} {totals[which]:6.0f} µs: {each}; answers p50 {p50:.1f} ms, p99 {p99:.1f}"
        )
        commands = _medians([f.commands for f in figures])
        asked = ", ".join(
            f"{c} {n:.2f}" for c, n in sorted(commands.items(), key=lambda i: -i[1]) if n >= 0.02
        )
        transactions = statistics.median(f.transactions for f in figures)
        print(f"{'':<35} transactions of PostgreSQL {transactions:.2f}; commands of Redis: {asked}")
    return totals


def main() -> int:
    """Measure and print: the exit code."""
    parser = parser_of("firsts", __doc__, versions=True)
    parser.add_argument("--organisations", type=count_from_1, default=1500, help="of a round (default 1500)")
    parser.add_argument("--rate", type=more_than_0, default=300.0, help="messages a second (default 300)")
    parser.add_argument("--rounds", type=count_from_1, default=2, help="(default 2)")
    given = parser.parse_args()
    warm = int(given.rate)
    with contextlib.ExitStack() as stack:
        versions = {}
        for root in [*(root.resolve() for root in given.versions), _HERE]:
            target = stack.enter_context(engine("", root=root))
            versions[str(root)] = Version(target, given.rounds * given.organisations + warm)
        for version in versions.values():
            version.warm_up(warm, given.rate)
        for _ in range(given.rounds):
            for version in versions.values():
                version.round(given.organisations, given.rate)
    totals = {name: show(name[-28:], version.found) for name, version in versions.items()}
    note("firsts", {"rate": given.rate, "organisations": given.organisations, "cpu_us": totals})
    return 0


if __name__ == "__main__":
    sys.exit(main())
