"""Every signal to every process: what docs/operations.md says of it is what happens, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from engine.config import ROLES
from tests.operations.customers import assert_none_lost, customers
from tests.system.client import eventually
from tests.system.conftest import Engine
from tests.system.faults import fetch_processes

# A process goes on as if nothing had come.
PASSED_OVER = ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGCHLD", "SIGCONT")
# The supervisor does, and says so.
MEANINGLESS = ("SIGUSR1", "SIGUSR2", "SIGALRM")


def row_of(engine: Engine, role: str) -> dict[str, Any]:
    rows = eventually(
        lambda: [r for r in fetch_processes(engine) if r["role"] == role and r["state"] == "ready"]
    )
    return dict(rows[0])


def pids(engine: Engine) -> dict[str, int]:
    return {r["role"]: r["pid"] for r in fetch_processes(engine)}


def count(engine: Engine, words: str) -> int:
    return engine.log.read_text().count(words)


def beats(engine: Engine, pid: int) -> None:
    """Wait until the process has slept and woken a few times since now: it lives."""

    def switches() -> int:
        with open(f"/proc/{pid}/status") as status:
            return int(status.read().partition("voluntary_ctxt_switches:")[2].split()[0])

    before = switches()
    eventually(lambda: switches() > before + 3)


@pytest.mark.parametrize("role", ROLES)
def test_a_process_passes_over_what_means_nothing_and_shows_where_it_is(victim: Engine, role: str) -> None:
    before = pids(victim)
    with customers(victim) as running:
        for name in PASSED_OVER:
            os.kill(before[role], signal.Signals[name])
            beats(victim, before[role])
        seen = count(victim, "(most recent call first)")
        os.kill(before[role], signal.SIGQUIT)
        eventually(lambda: count(victim, "(most recent call first)") > seen)
        os.kill(before[role], signal.SIGSTOP)
        time.sleep(3)
        os.kill(before[role], signal.SIGCONT)
        running.go_on()
    assert pids(victim) == before
    assert_none_lost(victim, running.stop())


@pytest.mark.parametrize("role", ROLES)
def test_a_process_that_is_told_to_drain_is_replaced(victim: Engine, role: str) -> None:
    before = row_of(victim, role)
    with customers(victim) as running:
        os.kill(before["pid"], signal.SIGUSR1)
        eventually(lambda: row_of(victim, role)["pid"] != before["pid"])
        running.go_on()
    assert count(victim, f'child_ended child="{role} 1" pid={before["pid"]} code=0')
    assert_none_lost(victim, running.stop())


def test_the_supervisor_passes_over_what_means_nothing_says_so_and_shows_where_it_is(victim: Engine) -> None:
    before = pids(victim)
    with customers(victim) as running:
        for name in (*MEANINGLESS, "SIGPIPE", "SIGCHLD", "SIGCONT"):
            os.kill(victim.pid, signal.Signals[name])
            beats(victim, victim.pid)
        for name in MEANINGLESS:
            eventually(lambda name=name: count(victim, f"signal={name}"))
        seen = count(victim, "(most recent call first)")
        os.kill(victim.pid, signal.SIGQUIT)
        eventually(lambda: count(victim, "(most recent call first)") > seen)
        running.go_on()
    assert pids(victim) == before
    assert_none_lost(victim, running.stop())


def test_a_frozen_supervisor_holds_up_nobody_and_goes_on(victim: Engine) -> None:
    before = pids(victim)
    with customers(victim) as running:
        os.kill(victim.pid, signal.SIGSTOP)
        # Longer than it waits for a sign of life.
        until = time.monotonic() + 12
        while time.monotonic() < until:
            running.go_on(10)
        os.kill(victim.pid, signal.SIGCONT)
        eventually(lambda: count(victim, "supervisor_held_up"))
        running.go_on()
    assert running.refusals == {}
    assert pids(victim) == before
    assert_none_lost(victim, running.stop())


def test_hangup_reloads(victim: Engine) -> None:
    with customers(victim) as running:
        reloaded = count(victim, "reloaded ")
        os.kill(victim.pid, signal.SIGHUP)
        eventually(lambda: count(victim, "reloaded ") > reloaded, 60)
        running.go_on()
    assert running.refusals == {}
    assert_none_lost(victim, running.stop())
