"""Processes that die again and again, grow, or write without end; their CPUs; the end of a reload."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from engine.logs.bursts import LINES
from supervisor.cli.reloading import NotReloaded, reload_engine
from tests.supervisor.process.running import Start, until
from tests.supervisor.process.systemd_peer import Systemd

STEPS = ("ready", "drain", "ended")


def test_process_after_process_dies_and_the_slot_is_degraded_says_why_and_recovers(
    start: Start, tmp_path: Path
) -> None:
    systemd = Systemd(tmp_path)
    limits = {"backoff_s": 0.02, "backoff_max_s": 0.1, "lived_s": 1.0, "degraded_deaths": 4}
    running = start(
        limits=limits, roles={"normal": 0, "archiver": 0}, environment={"NOTIFY_SOCKET": systemd.address}
    )
    victim = running.ready()["express 1"]
    (running.here / "crash-express").touch()
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: (row := running.rows().get("express 1")) and row.degraded)
    row = running.rows()["express 1"]
    assert row.deaths >= 4
    assert row.last_words == "It ended with exit code 1 before it was ready."
    systemd.hear("STATUS=5 of 6 processes ready; express 1 is degraded: It ended with exit code 1 before")
    assert [e["why"] for e in running.logged("child_degraded")] == [row.last_words], "it is logged once"
    deaths = [e for e in running.logged("child_ended") if e["child"] == "express 1"]
    assert len(deaths) >= 4
    (running.here / "crash-express").unlink()
    until(lambda: not running.rows()["express 1"].degraded)
    systemd.hear("STATUS=6 of 6 processes ready")
    systemd.close()


def test_a_crash_leaves_its_place_in_the_last_words(start: Start) -> None:
    running = start(roles={"normal": 0, "archiver": 0})
    victim = running.ready()["ledger 1"]
    os.kill(victim.pid, signal.SIGSEGV)
    running.successor(victim)
    words = running.rows()["ledger 1"].last_words
    assert words.startswith('It was ended by SIGSEGV. It was at File "')
    [stack] = running.logged("child_stack")
    assert stack["exception"].startswith("Fatal Python error: Segmentation fault\n")
    plain = [line for line in running.stderr.splitlines() if not line.startswith("{")]
    assert plain == [], "each event is one line"


def test_a_process_that_has_outgrown_its_memory_is_replaced_and_never_missed(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "grow-ledger").touch()
    running = start(
        roles={"normal": 0, "archiver": 0},
        processes={"memory_max_mb": 200},
        limits={"lived_s": 0.3, "weigh_s": 0.1},
    )
    victim = running.ready()["ledger 1"]
    (tmp_path / "grow-ledger").unlink()
    running.successor(victim)
    until(lambda: "ledger 2" not in running.rows())
    [grown] = running.logged("child_outgrown")
    assert grown["child"] == "ledger 1"
    assert grown["memory_mb"] > 200
    lines = [json.loads(line) for line in running.stderr.splitlines() if "ledger" in line]
    steps = [(e["event"], e["child"]) for e in lines if e["event"].removeprefix("child_") in STEPS]
    assert steps == [
        ("child_ready", "ledger 1"),
        ("child_ready", "ledger 2"),
        ("child_drain", "ledger 1"),
        ("child_ended", "ledger 1"),
        ("child_ready", "ledger 1"),
        ("child_drain", "ledger 2"),
        ("child_ended", "ledger 2"),
    ]
    assert {e["code"] for e in running.logged("child_ended")} == {0}
    assert running.fenced() == []
    assert running.rows()["ledger 1"].deaths == 0


def test_processes_are_given_the_cpus_in_turn(start: Start) -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    running = start(roles={"archiver": 0, "express": 2}, processes={"cpus": cpus})
    running.ready()
    born = {e["name"].split(".")[1]: e["cpus"] for e in running.events("born")}
    assert [born[role] for role in ("ledger", "normal", "ingest")] == [
        [cpus[0]],
        [cpus[4 % len(cpus)]],
        [cpus[5 % len(cpus)]],
    ]


def test_a_burst_of_lines_of_one_kind_is_cut_off_and_counted(start: Start, tmp_path: Path) -> None:
    (tmp_path / "noisy-express").touch()
    running = start(roles={"normal": 0, "archiver": 0})
    running.ready()
    running.send(signal.SIGTERM)
    assert running.end() == 0
    assert len(running.logged("store away")) == LINES
    left_out = running.logged("lines_left_out")
    assert {e["of"] for e in left_out} == {"store away"}
    assert sum(e["lines"] for e in left_out) == 2000 - LINES


def test_who_asks_for_a_reload_hears_how_it_ended(start: Start, tmp_path: Path) -> None:
    running = start()
    before = running.ready()
    (tmp_path / "config.toml").write_text("node = 'node-1'\ntake_over_s = 50\n")
    reload_engine(running.here, 20)
    after = running.rows()
    changed = {title for title, row in after.items() if row.pid != before[title].pid}
    assert changed == {"ingest 1", "express 1", "normal 1", "notifier 1", "admin 1"}
    (tmp_path / "config.toml").write_text("[http\n")
    with pytest.raises(NotReloaded, match="is not TOML"):
        reload_engine(running.here, 20)
    (tmp_path / "config.toml").write_text("node = 'node-1'\ntake_over_s = 60\n")
    (tmp_path / "refuse-normal").touch()
    with pytest.raises(NotReloaded, match="The setting of normal must be another"):
        reload_engine(running.here, 20)
