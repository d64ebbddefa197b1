"""A scrape says what is known: a store that is away costs its own numbers and no others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import structlog
from prometheus_client.parser import text_string_to_metric_families

from engine.boot.meter import Meter
from engine.boot.scrape import Scrape
from engine.delivery.settlement_counts import SettlementCounts
from engine.stores.postgres.pool import Pool
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.link import RedisLink
from engine.stores.redis.problems import RedisProblems
from engine.stores.status import StatusReader

AWAY = "127.0.0.1:1"


def now_us() -> int:
    return time.time_ns() // 1000


async def scraped(redis_url: str, postgres_url: str, data_dir: str = "") -> dict[tuple[str, str], float]:
    """By name and last label, the numbers of a process that has sent three messages."""
    meter = Meter("normal", "node.normal.1", None, structlog.get_logger())
    meter.watch("messages ended", SettlementCounts(sent=3))
    link = RedisLink(redis_url, timeout_s=5, name="test")
    pool, stream = await Pool.connect(postgres_url), RedisActivityStream(redis_url, 2)
    try:
        status = StatusReader(pool, link, stream, 2)
        problems = RedisProblems(link, now_us)
        body, _ = await Scrape(meter, status, problems, ["a"], now_us, data_dir).text("")
    finally:
        await stream.close()
        await pool.close()
        await link.close()
    families = text_string_to_metric_families(body.decode())
    return {(s.name, [*s.labels.values(), ""][-1 if not s.labels else -2]): s.value
            for family in families for s in family.samples}  # fmt: skip


async def test_all_parts_are_there(streams_url: str, books_url: str) -> None:
    found = await scraped(streams_url, books_url)
    up = {part: number for (name, part), number in found.items() if name == "smsengine_status_part_up"}
    assert up == {"queues": 1, "ledger": 1, "activity": 1, "receipts": 1, "memory": 1, "problems": 1}
    assert found["smsengine_queue_messages", "waiting"] == 0
    assert found["smsengine_ledger_lag_seconds", ""] == 0


async def test_stores_that_are_away_cost_their_own_numbers_alone() -> None:
    found = await scraped(f"redis://{AWAY}", f"postgresql://nobody@{AWAY}/none")
    up = {part: number for (name, part), number in found.items() if name == "smsengine_status_part_up"}
    assert up == {"queues": 0, "ledger": 0, "activity": 0, "receipts": 0, "memory": 0, "problems": 0}
    assert found["smsengine_messages_sent_total", "normal"] == 3
    assert not any(name in ("smsengine_queue_messages", "smsengine_ledger_lag_seconds") for name, _ in found)


async def test_what_the_supervisor_keeps_is_told_also_of_a_role_of_which_nobody_lives(tmp_path: Path) -> None:
    own = [
        {"role": "express", "index": 1, "pid": 7, "restarts": 2},
        {"role": "express", "index": 2, "restarts": 5},
        {"role": "ledger", "index": 1},
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "processes.json").write_text(json.dumps({"processes": own}))
    found = await scraped(f"redis://{AWAY}", f"postgresql://nobody@{AWAY}/none", str(tmp_path))
    assert found["smsengine_processes_wanted", "express"] == 2
    assert found["smsengine_processes_wanted", "ledger"] == 1
    restarts = {one: n for (name, one), n in found.items() if name == "smsengine_process_restarts_total"}
    assert restarts == {"express 1": 2, "express 2": 5, "ledger 1": 0}
