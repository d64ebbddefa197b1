"""Load from outside, and the proof that nothing of it was lost or doubled."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine

ROLES = ("ingest", "express", "normal", "ledger", "archiver", "notifier")


class Senders:
    """Threads that send batches until told to stop, insisting on each, with a pause after each."""

    def __init__(
        self, engine: Engine, count: int = 3, patience_s: float = 60.0, pause_s: float = 0.02
    ) -> None:
        self.accepted: list[str] = []
        self.trouble: list[object] = []
        self._engine = engine
        self._patience_s = patience_s
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.trouble == []
        return self.accepted

    def _send(self) -> None:
        caller = Caller(self._engine.url, self._engine.api_key)
        messages = [
            {"to": "+989121234567", "text": "hello", "queue": ("express", "normal")[i % 2]} for i in range(40)
        ]
        while not self._stop.is_set():
            try:
                status, answer = caller.insist("/v1/messages/batch", {"messages": messages}, self._patience_s)
                assert status == 202, answer
                self.accepted += [result["id"] for result in answer["results"]]
            # A thread's failure is the test's: it is raised in `stop`.
            except BaseException as e:
                self.trouble.append(e)
                return
            time.sleep(self._pause_s)


def fetch_processes(engine: Engine) -> list[dict[str, Any]]:
    try:
        _, status = Caller(engine.admin_url, engine.admin_key).call("GET", "/v1/admin/status")
        return list(status["processes"])
    except (OSError, KeyError, TypeError):
        return []


def assert_all_delivered(
    engine: Engine, accepted: list[str], duplicates_max: int, timeout_s: float = 60.0
) -> None:
    """Everything accepted is at the provider, nothing waits, and the books are clean."""
    assert len(set(accepted)) == len(accepted)

    def distinct() -> bool:
        return bool(fetch(f"{engine.simulator_url}/stats")["distinct"] >= len(accepted))

    eventually(distinct, timeout_s)
    seen = set(fetch(f"{engine.simulator_url}/received?limit=1000000")["ids"])
    assert set(accepted) - seen == set()
    assert fetch(f"{engine.simulator_url}/stats")["duplicates"] <= duplicates_max

    def settled() -> bool:
        _, status = Caller(engine.admin_url, engine.admin_key).call("GET", "/v1/admin/status")
        queues = status["queues"].values()
        return not any(q["waiting"] + q["in_hand"] + q["due"] + q["dead"] for q in queues)

    eventually(settled)

    # The ledger gathers usage for a while: what was just sent may be neither held nor charged in the books.
    def booked() -> bool:
        totals = assert_clean(engine)["totals"]
        return bool(totals["held"] == 0 and totals["captured"] >= len(seen))

    eventually(booked)
    totals = assert_clean(engine)["totals"]
    assert totals["captured"] == len(seen)
    assert totals["topped_up"] == 1_000_000


def assert_clean(engine: Engine, timeout_s: float = 60.0) -> Any:
    """Audit until all laws could be checked; the audit, which is clean. Not clean fails at once."""

    def audit() -> Any:
        status, found = Caller(engine.admin_url, engine.admin_key).call("GET", "/v1/admin/audit")
        assert status in (200, 503), found
        verdict = "not_checked" if status == 503 else found["verdict"]
        assert verdict != "not_clean", found
        last[:] = [found]
        return verdict == "clean" and found

    last: list[Any] = []
    try:
        return eventually(audit, timeout_s)
    except AssertionError as e:
        raise AssertionError(f"The audit was not clean within {timeout_s:g} s: {last or e}") from e
