"""The supervisor as a service of systemd, over a real notification socket and a real listening socket."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.supervisor.process.running import Start, until
from tests.supervisor.process.systemd_peer import AS_SYSTEMD, Systemd

PTRACE_DETACH, PTRACE_SEIZE = 17, 0x4206
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


def test_ready_is_said_when_every_role_is_and_never_before(
    start: Start, systemd: Systemd, tmp_path: Path
) -> None:
    (tmp_path / "mute-normal").touch()
    running = start(environment={"NOTIFY_SOCKET": systemd.address}, limits={"ready_s": 2.0})
    before = systemd.hear("STATUS=starting, 7 of 8 processes ready")
    assert all("\nEXTEND_TIMEOUT_USEC=" in datagram for datagram in before)
    (tmp_path / "mute-normal").unlink()
    before += systemd.hear("READY=1")
    assert sum(datagram == "READY=1" for datagram in before) == 1
    systemd.hear("STATUS=8 of 8 processes ready")
    running.ready()


def test_the_stop_is_told_at_its_beginning_and_extended_with_each_step(
    start: Start, systemd: Systemd
) -> None:
    running = start(environment={"NOTIFY_SOCKET": systemd.address})
    systemd.hear("READY=1")
    (running.here / "linger-ingest").touch()
    running.send(signal.SIGTERM)
    stopping = systemd.hear("STOPPING=1")[-1]
    assert "\nEXTEND_TIMEOUT_USEC=" in stopping
    assert running.process.poll() is None
    assert (
        systemd.hear("STATUS=draining, 8 processes left")[-1].partition("\n")[2].startswith("EXTEND_TIMEOUT")
    )
    assert running.events("drained") == []


def test_a_reload_is_over_for_systemd_when_the_last_process_is_replaced(
    start: Start, systemd: Systemd, tmp_path: Path
) -> None:
    running = start(environment={"NOTIFY_SOCKET": systemd.address})
    systemd.hear("READY=1")
    (tmp_path / "config.toml").write_text("node = 'node-1'\ntake_over_s = 50\n")
    running.send(signal.SIGHUP)
    assert "\nMONOTONIC_USEC=" in systemd.hear("RELOADING=1")[-1]
    assert any(d.startswith("STATUS=reloading, ") for d in systemd.hear("READY=1"))
    [reloaded] = running.logged("reloaded")
    assert reloaded["generation"] == 1
    # A file that is wrong is over at once, and the service goes on.
    (tmp_path / "config.toml").write_text("[http\n")
    running.send(signal.SIGHUP)
    systemd.hear("RELOADING=1")
    systemd.hear("READY=1")
    assert len(running.logged("reload_failed")) == 1


def test_signs_of_life_come_while_children_are_replaced(start: Start, systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"}
    running = start(environment=environment, limits={"beat_s": 1.5, "abort_s": 0.3})
    systemd.hear("READY=1")
    victim = running.ready()["express 1"]
    os.kill(victim.pid, signal.SIGSTOP)
    running.successor(victim)
    systemd.hear("WATCHDOG=1")
    assert running.logged("watchdog_withheld") == []


@contextmanager
def held(pid: int) -> Iterator[None]:
    """A child that ends is not seen to end by its parent, as one that the kernel holds: it is traced."""
    if _libc.ptrace(PTRACE_SEIZE, pid, None, None) != 0:
        pytest.skip(f"a process may not be traced here: {os.strerror(ctypes.get_errno())}")
    yield
    # The tracer sees the end first, then the parent.
    until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)


def test_systemd_is_left_without_a_sign_of_life_while_a_child_can_neither_beat_nor_die(
    start: Start, systemd: Systemd
) -> None:
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"}
    limits = {"beat_s": 1.5, "abort_s": 0.3, "kill_s": 0.3}
    running = start(environment=environment, limits=limits)
    systemd.hear("READY=1")
    victim = running.ready()["express 1"]
    with held(victim.pid):
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: running.logged("watchdog_withheld"))
        assert running.logged("watchdog_withheld")[0]["stuck"] == "express 1"
        systemd.flush()
        count = len(running.logged("watchdog_withheld"))
        # It would have been said three times meanwhile.
        until(lambda: len(running.logged("watchdog_withheld")) >= count + 3)
        assert [datagram for datagram in systemd.flush() if "WATCHDOG=1" in datagram] == []
    running.successor(victim)
    systemd.hear("WATCHDOG=1")


def test_while_a_server_is_restarted_systemd_is_told_to_be_patient(start: Start, systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "2000000"}
    running = start(environment=environment, server=True, roles={"normal": 0, "archiver": 0})
    systemd.hear("READY=1")
    os.kill(running.events("server")[0]["pid"], signal.SIGKILL)
    assert systemd.hear("WATCHDOG_USEC=")[-1] == "WATCHDOG_USEC=92000000\nWATCHDOG=1"
    assert systemd.hear("WATCHDOG_USEC=")[-1] == "WATCHDOG_USEC=2000000\nWATCHDOG=1"


def test_a_server_that_cannot_be_started_again_is_shown_until_it_is(start: Start, systemd: Systemd) -> None:
    running = start(
        environment={"NOTIFY_SOCKET": systemd.address}, server=True, roles={"normal": 0, "archiver": 0},
        limits={"backoff_max_s": 0.2},
    )  # fmt: skip
    running.ready()
    (running.here / "refuse-server").touch()
    os.kill(running.events("server")[0]["pid"], signal.SIGKILL)
    systemd.hear("STATUS=6 of 6 processes ready; sleeper cannot be started: There is no room on its disk.")
    (running.here / "refuse-server").unlink()
    systemd.hear("STATUS=6 of 6 processes ready")


def test_no_child_inherits_what_systemd_told_the_supervisor(start: Start, systemd: Systemd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        running = start(
            before=(sys.executable, "-c", AS_SYSTEMD, str(fd)),
            pass_fds=(fd,),
            environment={"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"},
        )
        running.ready()
    assert running.events("born")
    for event in running.events("born"):
        assert [name for name in event["environment"] if "NOTIFY" in name or "LISTEN" in name] == []
        assert "WATCHDOG_USEC" not in event["environment"]


def test_systemd_may_hand_over_the_listening_socket(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        running = start(before=(sys.executable, "-c", AS_SYSTEMD, str(fd)), pass_fds=(fd,))
        running.ready()
        assert running.stdout.startswith(f"ready {port} ")
        assert running.ask().startswith("node-1.ingest.")


def test_systemd_may_hand_over_the_socket_of_the_admin_calls_too(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as public, socket.create_server(("127.0.0.1", 0)) as admin:
        fds = (admin.fileno(), public.fileno())
        running = start(
            before=(sys.executable, "-c", AS_SYSTEMD, ",".join(map(str, fds))), pass_fds=fds,
            environment={"LISTEN_FDNAMES": "admin:smsengine.socket"},
        )  # fmt: skip
        running.ready()
        assert running.stdout == f"ready {public.getsockname()[1]} {admin.getsockname()[1]}\n"
        assert running.ask("ingest").startswith("node-1.ingest.")
        assert running.ask("admin").startswith("node-1.admin.")
