"""Failures that take systemd, or the supervisor, some seconds to notice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from engine.config import DRAIN_ORDER
from tests.system.client import eventually
from tests.systemd.machine import ROOT
from tests.systemd.world import CONFIGURATION, SOCKET, Service, load


def test_a_reload_of_a_wrong_file_fails_says_why_and_changes_nothing(service: Service) -> None:
    before = service.processes()
    right = service.configuration
    service.machine.write(CONFIGURATION, right + "[queues.normal]\nconcurrency = 0\n")
    service.systemctl("reload", check=False)
    eventually(lambda: "the last reload changed nothing" in service.status())
    assert "queues.normal.concurrency" in service.status()
    assert service.machine.show("smsengine.service", "ActiveState") == ["active"]
    assert {n: r["pid"] for n, r in service.processes().items()} == {n: r["pid"] for n, r in before.items()}
    service.machine.write(CONFIGURATION, right)
    service.systemctl("reload")
    eventually(lambda: service.status() == "9 of 9 processes ready")


def test_a_stop_drains_and_ends_in_success(service: Service) -> None:
    pid = service.main_pid()
    with load(service, patient=True) as running:
        service.machine.run("systemctl", "stop", "smsengine.socket", "smsengine.service")
        states = service.machine.show("smsengine.service", "ActiveState", "Result", "ExecMainStatus")
        assert states == ["inactive", "success", "0"]
        assert service.drained(pid) == list(DRAIN_ORDER)
        service.machine.run("systemctl", "start", "smsengine.service")
    assert running.failures == []
    service.assert_none_lost_or_doubled(running.accepted)


def test_a_frozen_supervisor_is_ended_by_the_watchdog_and_started_again(service: Service) -> None:
    pid, count = service.main_pid(), service.restarts()
    with load(service, patient=True) as running:
        os.kill(service.machine.outer_pid(pid), signal.SIGSTOP)
        eventually(lambda: service.restarts() == count + 1, timeout_s=60)
        eventually(lambda: service.status() == "9 of 9 processes ready", timeout_s=60)
        seen = len(running.accepted)
        eventually(lambda: len(running.accepted) > seen + 100)
    assert "smsengine.service: Watchdog timeout" in service.machine.journal("--output=cat")
    assert running.refused == 0
    assert running.failures == []
    service.assert_none_lost(running.accepted)


def test_a_killed_supervisor_takes_all_with_it_and_the_next_one_starts_beside_what_is_left(
    service: Service,
) -> None:
    pid, count = service.main_pid(), service.restarts()
    with load(service, patient=True) as running:
        os.kill(service.machine.outer_pid(pid), signal.SIGKILL)
        eventually(lambda: service.restarts() == count + 1, timeout_s=60)
        eventually(lambda: service.status() == "9 of 9 processes ready", timeout_s=60)
        seen = len(running.accepted)
        eventually(lambda: len(running.accepted) > seen + 100)
    assert running.failures == []
    service.assert_none_lost(running.accepted)


def test_a_process_that_hangs_is_replaced_by_the_supervisor_and_not_by_systemd(
    service: Service,
) -> None:
    pid, count = service.main_pid(), service.restarts()
    victim = service.processes()["normal 1"]
    with load(service, patient=True) as running:
        os.kill(service.machine.outer_pid(victim["pid"]), signal.SIGSTOP)
        eventually(lambda: service.processes()["normal 1"]["restarts"] > victim["restarts"], timeout_s=60)
        eventually(lambda: service.status() == "9 of 9 processes ready", timeout_s=60)
    assert service.processes()["normal 1"]["last_words"] == "It hung and was ended."
    assert (service.main_pid(), service.restarts()) == (pid, count)
    assert running.failures == []
    service.assert_none_lost(running.accepted)


def test_a_setting_that_is_wrong_at_the_start_is_shown_and_not_tried_again(
    service: Service,
) -> None:
    service.machine.run("systemctl", "stop", "smsengine.socket", "smsengine.service")
    service.machine.write(CONFIGURATION, service.configuration + "[roles]\n")
    service.systemctl("start", check=False)
    eventually(lambda: service.machine.show("smsengine.service", "ActiveState") == ["failed"])
    assert service.machine.show("smsengine.service", "ExecMainStatus") == ["2"]
    lines = service.machine.journal("--output=cat", "--priority=err")
    assert "smsengine: /etc/smsengine/smsengine.toml is not TOML: " in lines
    # Callers who wait start it again, but not without end.
    service.machine.write(f"{SOCKET}/few.conf", "[Socket]\nTriggerLimitBurst=2\n")
    service.machine.run("systemctl", "daemon-reload")
    service.machine.run("systemctl", "start", "smsengine.socket")

    host, _, port = service.address.partition(":")

    def refused() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return False
        return service.machine.show("smsengine.socket", "Result") == ["trigger-limit-hit"]

    eventually(refused, timeout_s=60)
    service.machine.run("rm", f"{SOCKET}/few.conf")
    service.machine.run("systemctl", "daemon-reload")
    service.machine.write(CONFIGURATION, service.configuration)
    service.systemctl("start")
    eventually(lambda: service.status() == "9 of 9 processes ready")
    assert service.machine.show("smsengine.socket", "ActiveState") == ["active"]


def test_uninstalled_it_is_gone_and_its_data_are_there(service: Service) -> None:
    said = service.machine.run("make", "-C", ROOT, "uninstall-service").stdout
    assert "What stays: the data in /var/lib/smsengine" in said
    assert service.machine.run("systemctl", "status", "smsengine.service", check=False).returncode == 4
    assert service.machine.run("ls", "/var/lib/smsengine/postgres").stdout
    assert "nothing was installed" in service.machine.run("make", "-C", ROOT, "uninstall-service").stdout
