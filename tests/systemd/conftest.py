"""One machine with the installed service for all tests of the folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from supervisor.simulator import start_simulator
from tests.systemd.machine import ROOT, Forbidden, Machine
from tests.systemd.world import UNIT, Service

CONFIGURATION = """
node = "sms-1"
[[providers]]
name = "outside"
type = "simulated"
url = "{url}"
[roles]
ingest = 2
"""


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    try:
        machine = Machine(tmp_path_factory.mktemp("machine"))
    except Forbidden as e:
        pytest.skip(f"no systemd of its own on this machine: {e}")
    yield machine
    machine.stop()


@pytest.fixture(scope="session")
def installed(machine: Machine) -> Machine:
    machine.run("make", "-C", ROOT, "install-service")
    return machine


@pytest.fixture(scope="session")
def service(installed: Machine) -> Iterator[Service]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    provider = start_simulator()
    installed.write("/etc/smsengine/smsengine.toml", CONFIGURATION.format(url=provider.url))
    listen = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
    installed.write("/etc/systemd/system/smsengine.socket.d/test.conf", listen)
    # So that the tests need not wait half a minute for systemd to find it hung.
    installed.write(UNIT, "[Service]\nWatchdogSec=3\n")
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "enable", "--now", "smsengine.service")
    service = Service(installed, f"http://127.0.0.1:{port}", provider)
    made = service.command("org", "create", "Acme Ltd")
    service.key = made["api_key"]
    service.command("org", "topup", made["id"], 1_000_000, "--reference", "first")
    yield service
    provider.stop()
