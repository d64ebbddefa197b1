"""A day of traffic within minutes through a whole engine, and all that is said of it afterwards agrees.

    make day [MESSAGES=3000] [HOUR_S=2] [SEED=1]

Messages rise to a peak at noon. Two campaigns come on top, one provider is out from 13 to 16 o'clock,
receipts are late from 8 on, some messages fail or do not arrive, some are scheduled and canceled. At 10 and
at 17 one of the two archivers is killed. Then histories, reports by each group, lists, exports, the balance
and the books agree to the unit.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.workload import message
from tests.chaos.test_chaos import pid_of
from tests.system.agreement import PLACES, TEXTS, Kinds
from tests.system.carriers import Carriers, audited, carriers
from tests.system.client import behave

MESSAGES = int(os.environ.get("MESSAGES", "3000"))
HOUR_S = float(os.environ.get("HOUR_S", "2"))
SEED = int(os.environ.get("SEED", "1"))
BATCH_MAX = 200
CAMPAIGNS = {10: 0.15, 17: 0.1}
OUTAGE = range(13, 16)
ENDED = {"delivered", "undelivered", "failed", "expired", "canceled"}


def test_all_that_is_said_of_a_day_agrees_to_the_unit(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with carriers(tmp_path, roles="[roles]\narchiver = 2\n") as pair:
        day = Kinds(pair.engine, top_up=100 * MESSAGES)
        to_b = f"{pair.engine.url}/v1/providers/b/receipts/token-of-the-test"
        behave(pair.b.url, receipts={"undelivered": 0.05, "url": to_b})
        for hour in range(24):
            begun = time.monotonic()
            _changes(pair, hour)
            _hour(day, hour, rng)
            time.sleep(max(0.0, begun + HOUR_S - time.monotonic()))
        day.wait(lambda m: m["status"] in ENDED, within_s=600)
        statuses = Counter(m["status"] for m in day.messages)
        print(f"\n{len(day.messages)} messages: {dict(statuses)}, units {day.sums('charge')}", flush=True)  # noqa: T201
        assert set(statuses) >= {"delivered", "undelivered", "failed", "canceled"}
        day.agree()
        audited(pair.engine)


def _changes(pair: Carriers, hour: int) -> None:
    """What changes at that hour."""
    late = {"delay": {"constant_ms": 5_000 if hour >= 8 else 100}, "undelivered": 0.05, "duplicate": 0.1}
    behave(
        pair.a.url, outage=hour in OUTAGE, receipts=late,
        error_rates={"temporary": 0.05, "permanent": 0.03},
    )  # fmt: skip
    archiver = pid_of(pair.engine, "archiver") if hour in CAMPAIGNS else None
    if archiver:
        os.kill(archiver, signal.SIGKILL)


def _hour(day: Kinds, hour: int, rng: random.Random) -> None:
    """The messages of that hour."""
    share = (1 + math.cos((hour - 12) / 12 * math.pi)) / 24 * 0.75 + CAMPAIGNS.get(hour, 0.0)
    count = max(2, round(share * MESSAGES))
    for first in range(0, count, BATCH_MAX):
        day.submit([_message(rng, f"hour {hour}") for _ in range(min(BATCH_MAX, count - first))])
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for scheduled in day.submit([{**_message(rng, "tomorrow"), "send_at": tomorrow}]):
        day.cancel(scheduled)


def _message(rng: random.Random, reference: str) -> dict[str, Any]:
    """A message to any of the places, with a text of any kind."""
    queue = rng.choice(("express", "normal"))
    text = rng.choice(TEXTS) if rng.random() < 0.3 else message(rng, queue)["text"]
    to = f"{rng.choice(list(PLACES.values()))[:-4]}{rng.randrange(2000, 9000)}"
    return {"to": to, "text": text, "queue": queue, "reference": reference}
