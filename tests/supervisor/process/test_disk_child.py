"""A disk that hangs holds up no supervisor: all it does goes on, but for what is written there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from supervisor.process.disk_child import DiskChild
from tests.disk import hung_disk
from tests.supervisor.process.running import Running, alive, until
from tests.supervisor.process.systemd_peer import Systemd


@pytest.fixture
def disk() -> Iterator[DiskChild]:
    disk = DiskChild(lambda: None, structlog.get_logger())
    yield disk
    disk.close()


def test_what_is_ordered_is_there_at_once_however_large_and_private_where_it_is_to_be(
    disk: DiskChild, tmp_path: Path
) -> None:
    file, large = tmp_path / "run" / "one.json", os.urandom(5 << 20)
    for content in (b"first", large, b"last"):
        disk.write(file, content)
        assert file.read_bytes() == content
    disk.write(tmp_path / "secret", b"key", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    disk.look(str(tmp_path))
    disk.write(file, None)
    assert not file.exists()
    assert disk.space is not None
    assert disk.silent_s(time.monotonic()) == 0.0
    assert list(file.parent.iterdir()) == []


def test_a_file_that_cannot_be_written_is_logged_and_the_next_one_is_written(
    disk: DiskChild, tmp_path: Path
) -> None:
    with structlog.testing.capture_logs() as logs:
        disk.write(tmp_path, b"a directory")
    assert [(line["event"], line["path"]) for line in logs] == [("file_not_written", str(tmp_path))]
    disk.write(tmp_path / "x", b"x")
    assert (tmp_path / "x").read_bytes() == b"x"


def test_the_log_says_that_a_child_died_and_which_one_took_its_place(disk: DiskChild, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        disk.write(tmp_path / "x", b"first")
        assert logs == []
        assert disk._child is not None
        pid = disk._child.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: (disk.write(tmp_path / "x", b"last"), (tmp_path / "x").read_bytes() == b"last")[1])
    died, started = logs
    assert died == {
        "event": "child_ended", "child": "disk", "pid": pid, "code": -signal.SIGKILL, "log_level": "warning",
    }  # fmt: skip
    assert (started["event"], started["child"]) == ("child_started", "disk")
    assert started["pid"] == disk._child.pid != pid


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_that_was_killed_or_frozen_loses_nothing_of_what_is_last(
    disk: DiskChild, tmp_path: Path, signum: int
) -> None:
    file = tmp_path / "x"
    disk.write(file, b"first")
    assert disk._child is not None
    pid = disk._child.pid
    os.kill(pid, signum)
    began = time.monotonic()
    for n in range(50):
        disk.write(file, b"%d" % n)
    assert time.monotonic() - began < 2.0
    if signum == signal.SIGSTOP:
        assert disk.silent_s(time.monotonic()) > 0.0
        assert file.read_bytes() == b"first"
        os.kill(pid, signal.SIGCONT)
    until(lambda: (disk.turn(time.monotonic()), file.read_bytes() == b"49")[1])


def test_the_supervisor_goes_on_beside_a_disk_that_hangs_and_writes_what_is_true_when_it_answers(
    tmp_path: Path,
) -> None:
    systemd = Systemd(tmp_path)
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "1000000"}
    running = Running(tmp_path, environment=environment, server=True)
    try:
        rows = running.ready()
        run = tmp_path / "run"
        [server] = running.events("server")
        with hung_disk(run):
            # Whoever dies is replaced, and fenced, all the same.
            os.kill(rows["express 1"].pid, signal.SIGKILL)
            until(lambda: running.fenced() == [rows["express 1"].name])
            until(lambda: len([e for e in running.logged("child_ready") if e["child"] == "express 1"]) == 2)
            until(lambda: running.logged("disk_hangs"))
            until(lambda: "does not answer" in systemd.hear("STATUS=")[-1])
            # An embedded server would wait for the disk, and with it whoever starts it.
            os.kill(server["pid"], signal.SIGKILL)
            until(lambda: running.logged("server_ended"))
            systemd.flush()
            assert "WATCHDOG=1" in systemd.hear("WATCHDOG=1")
            assert running.logged("supervisor_held_up") == []
            assert len(running.events("server")) == 1
        until(lambda: len(running.events("server")) == 2)
        until(lambda: running.logged("disk_answers_again"))
        successor = running.successor(rows["express 1"])
        assert alive(successor.pid)
        with hung_disk(run):
            # It stops beside a disk that hangs, too.
            running.send(signal.SIGTERM)
            assert running.end() == 0
    finally:
        running.kill()
        systemd.close()
