"""One machine with the installed service for all tests of the folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from engine import api_keys
from supervisor.simulator import start_simulator
from tests.systemd.machine import ROOT, Forbidden, Machine
from tests.systemd.world import ADMIN_SOCKET, CONFIGURATION, SOCKET, UNIT, Service

SETTINGS = """
node = "sms-1"
[http]
admin_key_file = "admin_key"
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def listen_on(machine: Machine, port: int) -> None:
    """Have the socket of the service on this port: the network is that of this machine."""
    listen = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
    machine.write(f"{SOCKET}/test.conf", listen)
    admin = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{free_port()}\n"
    machine.write(f"{ADMIN_SOCKET}/test.conf", admin)
    machine.run("systemctl", "daemon-reload")


@pytest.fixture
def service(only: Service) -> Service:
    """The service, which runs with its settings: a test before this one may have failed."""
    only.machine.write(CONFIGURATION, only.configuration)
    only.systemctl("start")
    return only


@pytest.fixture(scope="session")
def only(installed: Machine) -> Iterator[Service]:
    port = free_port()
    provider = start_simulator()
    configuration = SETTINGS.format(url=provider.url)
    installed.write(CONFIGURATION, configuration)
    # A secret that only root and the running engine can read.
    installed.write("/etc/smsengine/credentials/admin_key", f"{api_keys.new_admin_key()}\n")
    installed.run("chmod", "600", "/etc/smsengine/credentials/admin_key")
    listen_on(installed, port)
    # So that the tests need not wait half a minute for systemd to find it hung.
    installed.write(UNIT, "[Service]\nWatchdogSec=3\n")
    installed.run("systemctl", "daemon-reload")
    service = Service(installed, f"127.0.0.1:{port}", configuration, provider)
    installed.run("systemctl", "enable", "smsengine.service")
    service.systemctl("start")
    made = service.command("org", "create", "Acme Ltd")
    service.key = made["api_key"]
    service.command("org", "topup", made["id"], 1_000_000, "--reference", "first")
    yield service
    provider.stop()
