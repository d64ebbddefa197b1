"""Customers who go on sending whatever happens, and the proof that nothing of theirs is lost or doubled."""

from __future__ import annotations

import http.client
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine
from tests.system.faults import assert_clean

# What a worker can have in flight: its concurrency.
IN_FLIGHT = 200


class Customers:
    """Threads that send single messages of both queues, `per_s` in all, insisting on each."""

    def __init__(self, engine: Engine, per_s: float = 60.0, count: int = 2, patience_s: float = 60.0) -> None:
        self.accepted: list[str] = []
        # What came instead of 202: statuses, and errors of connections.
        self.refusals: Counter[str] = Counter()
        # Answers of 503, by their sentence.
        self.sentences: Counter[str] = Counter()
        self.trouble: list[str] = []
        self._engine, self._pause_s, self._patience_s = engine, count / per_s, patience_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[str]:
        """End it; the ids of all that was accepted."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.trouble == []
        return self.accepted

    def go_on(self, count: int = 30, timeout_s: float = 60.0) -> None:
        """Wait until so many more have been accepted."""
        before = len(self.accepted)
        eventually(lambda: len(self.accepted) >= before + count or self.trouble, timeout_s)
        assert self.trouble == []

    def _send(self, number: int) -> None:
        caller = Caller(self._engine.url, self._engine.api_key)
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - 1.0) + self._pause_s
            queue = ("express", "normal")[number % 2]
            message = {"to": "+989121234567", "text": f"code {len(self.accepted)}", "queue": queue}
            try:
                self._insist(caller, message)
            # A thread's failure is the test's: it is raised in `stop`.
            except BaseException as e:
                self.trouble.append(repr(e))
                return

    def _insist(self, caller: Caller, message: dict[str, str]) -> None:
        key, until = str(uuid.uuid4()), time.monotonic() + self._patience_s
        while True:
            try:
                status, answer = caller.call("POST", "/v1/messages", message, **{"Idempotency-Key": key})
                if status == 202:
                    self.accepted.append(answer["id"])
                    return
                assert status == 503, answer
                self.refusals["503"] += 1
                self.sentences[answer["detail"]] += 1
            except (OSError, http.client.HTTPException) as e:
                self.refusals[type(e).__name__] += 1
            assert time.monotonic() < until, f"It was not decided in {self._patience_s:g} s."
            time.sleep(0.05)


@contextmanager
def customers(engine: Engine, per_s: float = 60.0, patience_s: float = 60.0) -> Iterator[Customers]:
    """Customers while the block runs; they have begun when it does."""
    running = Customers(engine, per_s, patience_s=patience_s)
    try:
        running.go_on()
        yield running
    finally:
        running._stop.set()


def assert_none_lost(
    engine: Engine, accepted: list[str], duplicates_max: int = 0, may_expire: bool = False
) -> None:
    """All that was accepted is at the provider, `duplicates_max` twice at most, and the books are clean.

    `may_expire`: or has expired, and is not charged: a clock that jumps ends what waits.
    """
    assert len(set(accepted)) == len(accepted)

    def missing() -> set[str]:
        left = set(accepted) - set(fetch(f"{engine.simulator_url}/received?limit=1000000")["ids"])
        return {i for i in left if not (may_expire and has_expired(i))}

    def has_expired(message_id: str) -> bool:
        message = Caller(engine.url, engine.api_key).call("GET", f"/v1/messages/{message_id}")[1]
        return (message.get("status"), message.get("charge")) == ("expired", "released")

    eventually(lambda: not missing(), 90)
    assert fetch(f"{engine.simulator_url}/stats")["duplicates"] <= duplicates_max
    eventually(lambda: assert_clean(engine)["totals"]["held"] == 0, timeout_s=30)
