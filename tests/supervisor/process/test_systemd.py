"""sd_notify and socket activation, spoken over real sockets."""

from __future__ import annotations

import math
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from engine.errors import ConfigError
from supervisor.process.systemd import Notifier, take_listeners, take_notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_each_word_is_one_datagram(abstract: bool) -> None:
    with tempfile.TemporaryDirectory() as here, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = str(Path(here) / "notify")
        systemd.bind("\0" + name if abstract else name)
        systemd.settimeout(5)
        environment = {
            "NOTIFY_SOCKET": "@" + name if abstract else name,
            "WATCHDOG_USEC": "2000000",
            "A": "b",
        }
        notifier = take_notifier(environment)
        assert environment == {"A": "b"}, "no child and no server inherits the address"
        assert notifier.watchdog_s == 2.0
        notifier.ready()
        notifier.status("3 of 5\nready")
        notifier.judge(True, now=7.0)
        notifier.judge(False, now=8.0)
        with notifier.held_up(10.0):
            notifier.progress("draining", within_s=3.0)
        notifier.stopping(within_s=1.5)
        assert [systemd.recv(1000).decode() for _ in range(7)] == [
            "READY=1",
            "STATUS=3 of 5 ready",
            "WATCHDOG=1",
            "WATCHDOG_USEC=12000000\nWATCHDOG=1",
            "STATUS=draining\nEXTEND_TIMEOUT_USEC=3000000",
            "WATCHDOG_USEC=2000000\nWATCHDOG=1",
            "STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000",
        ]


def test_without_systemd_nothing_is_said_and_a_systemd_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert take_notifier({}).watchdog_s == 0.0
    Notifier().ready()
    Notifier(str(tmp_path / "gone")).ready()


def test_what_cannot_be_sent_is_sent_again_until_it_is_taken_or_true_no_more(tmp_path: Path) -> None:
    notifier, name = Notifier(str(tmp_path / "notify")), str(tmp_path / "notify")
    assert notifier.judgement_in_s(time.monotonic()) == math.inf
    notifier.ready()
    # Lines of the status are not: the next one says more.
    notifier.status("8 of 8 processes ready")
    assert 0.0 < notifier.judgement_in_s(time.monotonic()) <= 0.5
    notifier.judge(True, time.monotonic())
    assert 0.5 < notifier.judgement_in_s(time.monotonic()) <= 1.0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        systemd.settimeout(5)
        notifier.judge(True, time.monotonic())
        assert [systemd.recv(1000) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1"]
        assert notifier.judgement_in_s(time.monotonic()) == math.inf
    Path(name).unlink()
    notifier.reloading()
    notifier.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        systemd.settimeout(5)
        notifier.judge(False, time.monotonic())
        notifier.stopping(1.0)
        assert [systemd.recv(1000)[:9] for _ in range(2)] == [b"READY=1", b"STOPPING="]


def test_a_watchdog_for_another_process_is_not_ours() -> None:
    assert take_notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s == 0.0
    mine = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    assert take_notifier(mine).watchdog_s == 1.0


def test_a_malformed_environment_is_named() -> None:
    with pytest.raises(ConfigError, match="WATCHDOG_USEC must be a whole number"):
        take_notifier({"WATCHDOG_USEC": "soon"})
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET must be"):
        take_notifier({"NOTIFY_SOCKET": "vsock:2:1"})


def test_a_sign_of_life_is_due_twice_in_the_time_of_the_watchdog() -> None:
    notifier = Notifier(watchdog_s=3.0)
    assert notifier.judgement_in_s(now=100.0) < 0
    notifier.judge(True, now=100.0)
    assert notifier.judgement_in_s(now=100.5) == 1.0
    assert Notifier().judgement_in_s(now=100.0) == math.inf


def test_sockets_for_another_process_are_not_taken() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
    assert take_listeners(environment) == {}
    assert environment == {}
