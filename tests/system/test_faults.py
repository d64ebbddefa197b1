"""Processes killed under load: nothing accepted is lost, nothing is charged twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.client import Caller, behave, eventually, fetch
from tests.system.conftest import Engine, start_engine
from tests.system.faults import ROLES, Senders, assert_all_delivered, assert_clean, fetch_processes


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Engine]:
    """An engine of its own, to be mistreated."""
    engine = start_engine(tmp_path / "data")
    yield engine
    engine.stop()
    engine.kill()


def pid_of(engine: Engine, role: str) -> int | None:
    processes = fetch_processes(engine)
    ready = [p["pid"] for p in processes if p["role"] == role and p["state"] == "ready"]
    return ready[0] if ready else None


def kill(engine: Engine, role: str, signum: signal.Signals = signal.SIGKILL) -> None:
    os.kill(eventually(lambda: pid_of(engine, role)), signum)


def test_every_role_killed_under_load_loses_and_doubles_nothing_that_was_known(victim: Engine) -> None:
    rng = random.Random(7)
    senders = Senders(victim)
    rounds = [role for role in ROLES for _ in range(2)]
    rng.shuffle(rounds)
    for role in rounds:
        time.sleep(rng.uniform(0.2, 0.8))
        kill(victim, role)
    accepted = senders.stop()
    assert len(accepted) > 500
    # A worker killed with sends in flight: those, and only those, may go out again.
    killed_workers = sum(role in ("express", "normal") for role in rounds)
    assert_all_delivered(victim, accepted, duplicates_max=killed_workers * 400)


def test_messages_of_a_killed_worker_are_taken_over_within_seconds(victim: Engine) -> None:
    behave(victim.simulator_url, latency={"constant_ms": 60_000})
    caller = Caller(victim.url, victim.api_key)
    body = {"messages": [{"to": "+989121234567", "text": "hello", "queue": "express"}] * 20}
    _, answer = caller.call("POST", "/v1/messages/batch", body)
    accepted = [result["id"] for result in answer["results"]]

    def in_hand() -> bool:
        _, status = Caller(victim.url, victim.admin_key).call("GET", "/v1/admin/status")
        return bool(status["queues"]["express"]["in_hand"] == 20)

    eventually(in_hand)
    behave(victim.simulator_url, latency={"constant_ms": 0})
    killed_at = time.monotonic()
    kill(victim, "express")
    assert_all_delivered(victim, accepted, duplicates_max=20)
    assert time.monotonic() - killed_at < 20


def test_a_worker_frozen_past_the_patience_of_its_supervisor_is_replaced(victim: Engine) -> None:
    senders = Senders(victim, count=1)
    time.sleep(0.5)
    kill(victim, "express", signal.SIGSTOP)
    frozen = pid_of(victim, "express")
    eventually(lambda: (pid := pid_of(victim, "express")) is not None and pid != frozen, timeout_s=30)
    accepted = senders.stop()
    assert_all_delivered(victim, accepted, duplicates_max=400)


def test_sigterm_under_load_leaves_nothing_in_hand_and_the_next_start_goes_on(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    first = start_engine(data_dir)
    seen: set[str] = set()
    caller = Caller(first.url, first.api_key)
    accepted: list[str] = []
    stop_at = time.monotonic() + 1.5
    terminator = threading.Timer(1.0, lambda: os.kill(first.pid, signal.SIGTERM))
    terminator.start()
    while time.monotonic() < stop_at:
        try:
            body = {"messages": [{"to": "+989121234567", "text": "hello"}] * 50}
            status, answer = caller.call("POST", "/v1/messages/batch", body)
        except OSError:
            break
        if status == 202:
            accepted += [result["id"] for result in answer["results"]]
        seen = set(fetch(f"{first.simulator_url}/received?limit=1000000")["ids"])
    assert first.process.wait(60) == 0
    assert accepted
    second = start_engine(data_dir)
    missing = set(accepted) - seen
    later = Caller(second.url, second.api_key)

    def none_missing() -> bool:
        missing.difference_update(fetch(f"{second.simulator_url}/received?limit=1000000")["ids"])
        sent = {i for i in missing if later.call("GET", f"/v1/messages/{i}")[1]["status"] == "sent"}
        missing.difference_update(sent)
        return not missing

    try:
        eventually(none_missing, timeout_s=60)
        assert_clean(second)
    finally:
        assert second.stop() == 0
