"""Processes killed under load: nothing accepted is lost, nothing is charged twice."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.client import Caller, behave, eventually
from tests.system.conftest import Engine, start_engine
from tests.system.faults import ROLES, Senders, assert_all_delivered, fetch_processes


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Engine]:
    """An engine of its own, to be mistreated."""
    engine = start_engine(tmp_path / "data")
    yield engine
    engine.stop()
    engine.kill()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Engine]:
    """One in which nothing is taken from a worker only because it has had it for long."""
    config = tmp_path / "smsengine.toml"
    config.write_text("take_over_s = 3600\n")
    engine = start_engine(tmp_path / "data", ("--demo", "--config", config))
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
    senders = Senders(victim, pause_s=0.1)
    rounds = [role for role in ROLES for _ in range(2)]
    rng.shuffle(rounds)
    for role in rounds:
        further = len(senders.accepted) + rng.randrange(40, 400)
        eventually(lambda further=further: len(senders.accepted) >= further)
        kill(victim, role)
    accepted = senders.stop()
    assert len(accepted) > 500
    # A worker killed with sends in flight: those, and only those, may go out again.
    killed_workers = sum(role in ("express", "normal") for role in rounds)
    assert_all_delivered(victim, accepted, duplicates_max=killed_workers * 400)


def test_messages_of_a_killed_worker_are_taken_over_though_nobody_sits_on_them_for_long(
    patient: Engine,
) -> None:
    victim = patient
    behave(victim.simulator_url, latency={"constant_ms": 60_000})
    caller = Caller(victim.url, victim.api_key)
    body = {"messages": [{"to": "+989121234567", "text": "hello", "queue": "express"}] * 20}
    _, answer = caller.call("POST", "/v1/messages/batch", body)
    accepted = [result["id"] for result in answer["results"]]

    def in_hand() -> bool:
        _, status = Caller(victim.admin_url, victim.admin_key).call("GET", "/v1/admin/status")
        return bool(status["queues"]["express"]["in_hand"] == 20)

    eventually(in_hand)
    behave(victim.simulator_url, latency={"constant_ms": 0})
    kill(victim, "express")
    assert_all_delivered(victim, accepted, duplicates_max=20)


def test_a_worker_frozen_past_the_patience_of_its_supervisor_is_replaced(victim: Engine) -> None:
    senders = Senders(victim, count=1, pause_s=0.5)
    eventually(lambda: len(senders.accepted) >= 40)
    kill(victim, "express", signal.SIGSTOP)
    frozen = pid_of(victim, "express")
    eventually(lambda: (pid := pid_of(victim, "express")) is not None and pid != frozen)
    accepted = senders.stop()
    assert_all_delivered(victim, accepted, duplicates_max=400)
