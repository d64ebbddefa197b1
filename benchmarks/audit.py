"""The audit beside traffic: answers to customers with and without audits, and what an audit takes.

    python -m benchmarks.audit [--accounts 20000] [--rate 200] [--seconds 30]

Takes two minutes. One ingest process. `--accounts` organisations are put into the books by PostgreSQL
itself, each with a top-up in its journal; a hundred more send `--rate` single messages a second, first
alone, then while one audit follows the other, then while full ones do.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.arguments import count_from_1, more_than_0, parser_of
from benchmarks.load import Load
from benchmarks.running import Engine, engine

_SENDERS = 100
_UNITS = 1_000_000
# As the directory and the engine of 16 shards would have made them.
_FILL = """
WITH made AS (INSERT INTO organisations (name) SELECT 'idle' FROM generate_series(1, $1::int) RETURNING id),
     paid AS (INSERT INTO journal (organisation_id, movement, debit, credit, units, reference)
              SELECT id, 'top-up', 'payments', 'available', 100, 'fill' FROM made)
INSERT INTO accounts (organisation_id, shard, topped_up, available) SELECT id, id % 16, 100, 100 FROM made"""


def main() -> None:
    """The command: print the answers' quantiles with and without audits, and what an audit took."""
    parser = parser_of("audit", __doc__)
    parser.add_argument("--accounts", type=count_from_1, default=20_000)
    parser.add_argument("--rate", type=more_than_0, default=200.0, help="messages a second, one a request")
    parser.add_argument("--seconds", type=more_than_0, default=30.0)
    wish = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="smsengine-bench-") as folder,
        engine("[roles]\ningest = 1\n", place=Path(folder)) as running,
    ):
        keys = running.organisations(_SENDERS, _UNITS)
        asyncio.run(_fill(Path(folder), wish.accounts))
        # The first message of each waits for its quota.
        warm = Load(running.url, keys, size=1, express_share=0.5, connections=32, seed=1)
        warm.in_turn()
        asyncio.run(warm.open(wish.rate, 2 * _SENDERS / wish.rate))
        for what, query in (("alone", None), ("audits", ""), ("full audits", "?full=true")):
            load = Load(running.url, keys, size=1, express_share=0.5, connections=32, seed=1)
            with _auditing(running, query) as audits:
                asyncio.run(load.open(wish.rate, wish.seconds))
            tally = load.tally
            print(
                f"{what}: p50 {tally.quantile_ms(0.5):.1f} ms, p99 {tally.quantile_ms(0.99):.1f} ms,"
                f" worst {tally.quantile_ms(1):.1f} ms; accepted {tally.accepted}, {dict(tally.trouble)}"
            )
            if audits:
                seconds = sorted(audit["seconds"] for audit in audits)
                verdicts = {audit["verdict"] for audit in audits}
                print(
                    f"  {len(audits)} audits, {verdicts}, the middle one {seconds[len(seconds) // 2]:.2f} s"
                )


async def _fill(place: Path, accounts: int) -> None:
    url = json.loads((place / "data" / "run" / "engine.json").read_text())["config"]["postgres"]["url"]
    connection = await asyncpg.connect(url)
    await connection.execute(_FILL.replace("$1::int", str(accounts)))
    await connection.execute("ANALYZE")
    await connection.close()


@contextmanager
def _auditing(running: Engine, query: str | None) -> Iterator[list[Any]]:
    """One audit after the other in a thread, until the block ends; none when `query` is None."""
    found: list[Any] = []
    ended = threading.Event()

    def audit() -> None:
        while not ended.is_set():
            found.append(running.call("GET", f"/v1/admin/audit{query}"))

    thread = threading.Thread(target=audit)
    if query is not None:
        thread.start()
    try:
        yield found
    finally:
        ended.set()
        if query is not None:
            thread.join()


if __name__ == "__main__":
    main()
