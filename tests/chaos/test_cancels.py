"""Messages and batches are canceled while workers, ingest, ledger and Redis are killed and frozen.

    make chaos [MINUTES=3] [SEED=1]

At the end each message is canceled or sent, never both, and the books say the same.
"""

from __future__ import annotations

import datetime
import http.client
import os
import random
import threading
import time
from typing import Any
from urllib.parse import urlencode

from tests.chaos.test_chaos import SEED, hurt
from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine, answer
from tests.system.faults import assert_clean, fetch_processes

# Each message is looked at afterwards, so it is two minutes at most.
SECONDS = min(120.0, 60 * float(os.environ.get("MINUTES", "1")))
# Segments a second that the provider takes: about as many as are sent.
RATE = 300
TOGETHER = 30


class Customers:
    """Threads that send batches, scheduled or not, some of them atomic, and threads that cancel what they
    find."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.batches: dict[str, list[str]] = {}
        self.canceled: set[str] = set()
        self.trouble: list[object] = []
        self._engine = engine
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(step, random.Random(seed + n)))
            for n, step in enumerate((self._send, self._cancel, self._cancel))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.trouble == []

    def _run(self, step: Any, rng: random.Random) -> None:
        caller = Caller(self._engine.url, self._engine.api_key)
        while not self._stop.wait(rng.uniform(0.02, 0.15)):
            try:
                step(caller, rng)
            # A thread's failure is the test's: it is raised in `stop`.
            except BaseException as e:
                self.trouble.append(e)
                return

    def _send(self, caller: Caller, rng: random.Random) -> None:
        at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=rng.uniform(20, 40))
        later = {"send_at": at.isoformat()} if rng.random() < 0.5 else {}
        one = {"to": "+989121234567", "text": "hello", "queue": rng.choice(["express", "normal"]), **later}
        body = {"messages": [one] * TOGETHER, "atomic": rng.random() < 0.5}
        status, found = caller.insist("/v1/messages/batch", body, 120.0)
        if status == 422 and later:
            return  # it was repeated for so long that its time had passed
        assert status == 202, found
        self.batches[found["batch"]] = [r["id"] for r in found["results"] if "id" in r]

    def _cancel(self, caller: Caller, rng: random.Random) -> None:
        known = list(self.batches.items())[-rng.choice((5, 200)) :]
        if not known:
            return
        batch, ids = rng.choice(known)
        message_id = rng.choice(ids)
        whole = rng.random() < 0.1
        path = f"/v1/batches/{batch}/cancel" if whole else f"/v1/messages/{message_id}/cancel"
        try:
            status, found = caller.call("POST", path, **{"Idempotency-Key": f"{path} {rng.randrange(3)}"})
        except (OSError, http.client.HTTPException):
            return
        assert status in (200, 404, 409, 503), found
        if status == 200 and not whole:
            assert found["status"] == "canceled"
            self.canceled.add(message_id)


def test_messages_are_canceled_or_sent_whatever_dies(victim: Engine) -> None:
    rng = random.Random(SEED)
    answer(victim.run("provider", "throughput", "simulated", RATE, "--json"))
    customers = Customers(victim, SEED)
    until = time.monotonic() + SECONDS
    pause = threading.Event()
    while time.monotonic() < until:
        hurt(rng, victim, rng.choice(["express", "normal", "normal", "ingest", "ledger", "redis"]))
        pause.wait(rng.uniform(1.0, 4.0))
    customers.stop()
    eventually(lambda: len({p["role"] for p in fetch_processes(victim) if p["state"] == "ready"}) == 8, 120)
    answer(victim.run("provider", "throughput", "simulated", 5000, "--json"))
    customer = Caller(victim.url, victim.api_key)

    def over() -> bool:
        _, status = Caller(victim.admin_url, victim.admin_key).call("GET", "/v1/admin/status")
        waiting = sum(q["waiting"] + q["in_hand"] + q["due"] for q in status["queues"].values())
        return waiting == 0 and status["activity"]["waiting_entries"] == 0

    eventually(over, timeout_s=180)
    statuses: dict[str, str] = {}
    for batch, ids in customers.batches.items():
        _, page = customer.call("GET", f"/v1/messages?{urlencode({'batch': batch, 'limit': 500})}")
        found = {m["id"]: m["status"] for m in page["messages"]}
        assert set(found) == set(ids)
        statuses |= found
    received = set(fetch(f"{victim.simulator_url}/received?limit=1000000")["ids"])
    canceled = {i for i, status in statuses.items() if status == "canceled"}
    assert canceled & received == set()
    assert {i for i, status in statuses.items() if status in ("sent", "delivered")} == received & set(
        statuses
    )
    assert customers.canceled <= canceled
    assert set(statuses) == canceled | received
    assert min(len(canceled), len(received)) > 100
    totals = assert_clean(victim)["totals"]
    assert (totals["held"], totals["captured"]) == (0, len(received))
