"""The installed service under a real systemd: started, reloaded, restarted, stopped."""

from __future__ import annotations

import json
import re

from engine.config import DRAIN_ORDER
from engine.hosts.cpu_turns import FIRST_NICE
from engine.logs.journal import PRIORITIES
from tests.system.client import eventually, fetch
from tests.systemd.machine import ROOT
from tests.systemd.world import Service, load


def test_it_is_started_when_every_process_is_ready_and_listens_where_systemd_does(service: Service) -> None:
    assert service.machine.show("smsengine.service", "ActiveState", "Result") == ["active", "success"]
    eventually(lambda: service.status() == "9 of 9 processes ready")
    assert fetch(f"{service.url}/readyz")
    sockets = service.machine.run("systemctl", "list-sockets", "--no-legend").stdout.splitlines()
    of_units = {unit: address for address, unit, _ in map(str.split, sockets)}
    assert of_units["smsengine.socket"] == service.address
    # Its commands talk to the other one, which was handed over too.
    admin = f"http://{of_units['smsengine-admin.socket']}"
    assert service.command("check")["checks"][-1]["detail"] == f"{admin} is ready"
    # The unit lets an embedded Redis have a nice value of -3 (getrlimit(2): 20 - nice).
    assert service.machine.show("smsengine.service", "LimitNICE") == [str(20 + FIRST_NICE)]


def test_installing_it_again_changes_nothing(service: Service) -> None:
    pid = service.main_pid()
    said = service.machine.run("make", "-C", ROOT, "install-service").stdout
    states = re.findall(r"^  (as it should be|written|reloaded)", said, re.MULTILINE)
    assert states == ["as it should be"] * 6
    assert service.main_pid() == pid


def test_each_line_of_the_journal_is_an_event_with_its_priority_and_no_key(service: Service) -> None:
    lines = [json.loads(line) for line in service.machine.journal("--output=json").splitlines()]
    ours = [line for line in lines if line["_TRANSPORT"] == "stdout"]
    assert {line["PRIORITY"] for line in ours if "child_started" in line["MESSAGE"]} == {"6"}
    first_words = {line["MESSAGE"].split()[0] for line in ours}
    # A sentence to the operator has the name of the program before it.
    assert first_words <= {*PRIORITIES, "smsengine:"}
    assert not re.search(r"smse_|smsa_|Ctrl-C", service.machine.journal())


def test_a_reload_under_load_fails_no_request_and_loses_or_doubles_no_message(service: Service) -> None:
    before = service.processes()
    with load(service) as running:
        service.systemctl("reload")
        seen = len(running.accepted)
        eventually(lambda: len(running.accepted) > seen + 100)
    assert running.failures == []
    after = service.processes()
    replaced = {name for name, row in after.items() if row["pid"] != before[name]["pid"]}
    assert replaced == {"ingest 1", "ingest 2", "express 1", "normal 1", "notifier 1", "admin 1"}
    assert service.restarts() == 0
    service.assert_none_lost_or_doubled(running.accepted)


def test_callers_wait_while_the_service_restarts_and_are_not_refused(service: Service) -> None:
    with load(service, patient=True) as running:
        pid = service.main_pid()
        service.systemctl("restart")
        assert service.main_pid() != pid
        seen = len(running.accepted)
        eventually(lambda: len(running.accepted) > seen + 100)
    assert running.failures == []
    assert running.refused == 0
    service.assert_none_lost_or_doubled(running.accepted)


def test_sigterm_to_every_process_of_the_unit_loses_and_doubles_nothing(service: Service) -> None:
    with load(service, patient=True) as running:
        pid = service.main_pid()
        service.machine.run("systemctl", "kill", "--kill-whom=all", "--signal=SIGTERM", "smsengine.service")
        eventually(lambda: service.main_pid() != pid)
        # The next caller starts it again.
        seen = len(running.accepted)
        eventually(lambda: len(running.accepted) > seen + 100)
    assert running.refused == 0
    assert running.failures == []
    assert service.drained(pid) == list(DRAIN_ORDER)
    service.assert_none_lost_or_doubled(running.accepted)
