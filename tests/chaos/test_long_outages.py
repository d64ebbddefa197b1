"""A store away for a minute under load: what the customers see, second by second, and after."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine, start_engine
from tests.system.faults import assert_clean
from tests.system.test_outages import customer, frozen, server_of

AWAY_S = 60.0


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Engine]:
    config = tmp_path / "smsengine.toml"
    config.write_text("[roles]\ningest = 2\nledger = 2\n")
    engine = start_engine(tmp_path / "data", ("--demo", "--config", config))
    yield engine
    engine.stop()
    engine.kill()


class Customer:
    """Sends single messages one after another in a thread of its own, and counts the answers."""

    def __init__(self, engine: Engine, key: str, pause_s: float) -> None:
        self.answers: Counter[int | str] = Counter()
        self.accepted: list[str] = []
        # Answers of 503 that did not say when to come again.
        self.silent = 0
        self._engine, self._key, self._pause_s = engine, key, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        caller = Caller(self._engine.url, self._key)
        while not self._stop.wait(self._pause_s):
            try:
                status, answer = caller.call(
                    "POST", "/v1/messages", {"to": "+989121234567", "text": "minute"}
                )
            except (OSError, http.client.HTTPException) as e:
                self.answers[type(e).__name__] += 1
                continue
            self.answers[status] += 1
            if status == 202:
                self.accepted.append(answer["id"])
            elif status == 503 and "Retry-After" not in caller.headers:
                self.silent += 1


def test_postgresql_away_for_a_minute_refuses_nobody_who_has_paid(victim: Engine) -> None:
    # A slow sender, whose quota lasts the minute, and a fast one, whose quota does not.
    slow, fast, poor = (customer(victim, units) for units in (100_000, 100_000, 5))
    for caller in (slow, fast):
        for _ in range(50):
            assert caller.call("POST", "/v1/messages", {"to": "+989121234567", "text": "x"})[0] == 202
    senders = [Customer(victim, slow.key, 2.0), Customer(victim, fast.key, 0.002)]
    time.sleep(5)
    with frozen(server_of(victim, "/postgres")):
        until = time.monotonic() + AWAY_S
        before = senders[0].answers[202]
        stranger, answers = Caller(victim.url, poor.key), Counter[int]()
        while time.monotonic() < until:
            answers[stranger.call("POST", "/v1/messages", {"to": "+989121234567", "text": "y"})[0]] += 1
            time.sleep(1)
        from_quota = senders[0].answers[202] - before
    # Whoever has no quota left is told to come again, never that there is no credit.
    assert set(answers) == {503}
    assert from_quota >= AWAY_S / 2 / 2
    eventually(lambda: stranger.call("POST", "/v1/messages", {"to": "+989121234567", "text": "z"})[0] == 202)
    for sender in senders:
        sender.stop()
        assert set(sender.answers) <= {202, 503}, sender.answers
        assert sender.silent == 0
    print([dict(sender.answers) for sender in senders], dict(answers))  # noqa: T201 - what a long run did
    accepted = {i for sender in senders for i in sender.accepted}

    def all_received() -> bool:
        return accepted <= set(fetch(f"{victim.simulator_url}/received?limit=1000000")["ids"])

    eventually(all_received, 60)
    assert_clean(victim, 60)
