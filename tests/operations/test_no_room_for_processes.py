"""The machine has no room for another process: the supervisor goes on, says so, and starts it later."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.operations.customers import IN_FLIGHT, assert_none_lost, customers
from tests.system.client import eventually
from tests.system.conftest import Engine
from tests.system.faults import fetch_processes
from tests.system.test_outages import server_of

# Where the controller is that counts processes: cgroups of version 1, or of version 2.
PLACES = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


class Room:
    """How many processes may be forked: a control group that has only the supervisor at first."""

    def __init__(self, folder: Path, supervisor: int) -> None:
        self._folder = folder
        (folder / "cgroup.procs").write_text(str(supervisor))

    def close(self) -> None:
        """None more than there are."""
        (self._folder / "pids.max").write_text((self._folder / "pids.current").read_text())

    def open(self) -> None:
        """As many as one likes."""
        (self._folder / "pids.max").write_text("max")


@pytest.fixture
def room(victim: Engine) -> Iterator[Room]:
    folder = None
    for place in PLACES:
        with contextlib.suppress(OSError):
            (place / "smsengine-test").mkdir()
            if (place / "smsengine-test" / "pids.max").exists():
                folder = place / "smsengine-test"
                break
            (place / "smsengine-test").rmdir()
    if folder is None:
        pytest.skip("only root may make a control group that counts processes here")
    room = Room(folder, victim.pid)
    yield room
    room.open()
    for pid in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            (folder.parent / "cgroup.procs").write_text(pid)
    folder.rmdir()


def row_of(engine: Engine, role: str) -> dict[str, Any]:
    return next((r for r in fetch_processes(engine) if r["role"] == role), {})


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_goes_on_waits_longer_and_longer_says_so_and_recovers(victim: Engine, room: Room) -> None:
    descriptors = len(os.listdir(f"/proc/{victim.pid}/fd"))
    with customers(victim) as running:
        room.close()
        for role in ("express", "archiver"):
            os.kill(row_of(victim, role)["pid"], signal.SIGKILL)
        eventually(lambda: "Resource temporarily unavailable" in row_of(victim, "express")["last_words"])
        assert row_of(victim, "express")["state"] == "waiting"
        # It is a while before the next attempt by then, and the messages are taken in meanwhile.
        eventually(lambda: row_of(victim, "express")["deaths"] >= 6, 60)
        used_s, tries = cpu_s(victim.pid), victim.log.read_text().count("fork_failed")
        running.go_on()
        time.sleep(5)
        assert cpu_s(victim.pid) - used_s < 0.5
        assert victim.log.read_text().count("fork_failed") - tries < 10
        assert row_of(victim, "express")["degraded"]
        shown = victim.run("status").stdout
        assert "could not be started" in shown, shown
        # A store that ends now cannot be started either.
        os.kill(server_of(victim, "valkey-server"), signal.SIGKILL)
        eventually(lambda: "server_restart_failed" in victim.log.read_text())
        room.open()
        eventually(lambda: {r["state"] for r in fetch_processes(victim)} == {"ready"}, 60)
        running.go_on()
    assert_none_lost(victim, running.stop(), duplicates_max=2 * IN_FLIGHT)
    # A pipe for each process, and nothing of the attempts.
    eventually(lambda: len(os.listdir(f"/proc/{victim.pid}/fd")) == descriptors)
