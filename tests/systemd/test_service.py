"""The installed service under a real systemd: started, reloaded, restarted, stopped, killed."""

from __future__ import annotations

from tests.system.client import eventually, fetch
from tests.systemd.world import Service, load


def test_it_is_started_when_every_process_is_ready_and_listens_where_systemd_does(service: Service) -> None:
    assert service.machine.show("smsengine.service", "ActiveState", "Result") == ["active", "success"]
    eventually(
        lambda: service.machine.show("smsengine.service", "StatusText") == ["6 of 6 processes ready"], 5
    )
    assert fetch(f"{service.url}/readyz")
    sockets = service.machine.run("systemctl", "list-sockets", "--no-legend").stdout
    assert f"{service.url.removeprefix('http://')} smsengine.socket smsengine.service" in " ".join(
        sockets.split()
    )


def test_a_reload_under_load_fails_no_request_and_loses_or_doubles_no_message(service: Service) -> None:
    before = service.processes()
    with load(service) as running:
        service.systemctl("reload")
        seen = len(running.accepted)
        eventually(lambda: len(running.accepted) > seen + 100)
    assert running.failures == []
    after = service.processes()
    replaced = {name for name, row in after.items() if row["pid"] != before[name]["pid"]}
    assert replaced == {"ingest 1", "ingest 2", "express 1", "normal 1"}
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
    service.assert_none_lost_or_doubled(running.accepted)
