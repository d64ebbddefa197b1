"""Clients that connect and then say nothing, more than there are descriptors: others are served meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import time
from urllib.parse import urlsplit

from tests.operations.customers import assert_none_lost, customers
from tests.operations.test_no_room_for_processes import cpu_s, row_of
from tests.system.client import Caller, eventually
from tests.system.conftest import Engine

DESCRIPTORS = 320


def connect(engine: Engine, count: int) -> list[socket.socket]:
    """Connections on which nothing is ever sent."""
    parts = urlsplit(engine.url)
    return [socket.create_connection((parts.hostname, parts.port), timeout=5) for _ in range(count)]


def open_ones(connections: list[socket.socket]) -> int:
    """How many of them the engine has not closed."""
    found = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            found += connection.recv(1) != b""
        except BlockingIOError:
            found += 1
        except OSError:
            continue
    return found


def send(engine: Engine) -> int:
    """The status of one message on a new connection; 0: the connection was closed."""
    message = {"to": "+989121234567", "text": "hello"}
    try:
        return Caller(engine.url, engine.api_key).call("POST", "/v1/messages", message)[0]
    except (OSError, http.client.HTTPException):
        return 0


def test_idle_connections_are_bounded_and_newcomers_are_served(victim: Engine) -> None:
    """The process is replaced by one that may have few descriptors: its bound follows from them."""
    subprocess.run(["prlimit", f"--pid={victim.pid}", f"--nofile={DESCRIPTORS}:20000"], check=True)
    before = row_of(victim, "ingest")["pid"]
    os.kill(before, 9)
    eventually(lambda: (r := row_of(victim, "ingest"))["pid"] != before and r["state"] == "ready")
    pid = row_of(victim, "ingest")["pid"]
    silent: list[socket.socket] = []
    with customers(victim) as running:
        for _ in range(10):
            silent += connect(victim, 100)
            assert send(victim) == 202
        assert len(os.listdir(f"/proc/{pid}/fd")) <= DESCRIPTORS - 20
        assert open_ones(silent) <= DESCRIPTORS
        running.go_on()
    # Whoever sends keeps its connection.
    assert running.refusals == {}
    assert "idle connections closed to make room" in victim.log.read_text()
    for one in silent:
        one.close()
    subprocess.run(["prlimit", f"--pid={victim.pid}", "--nofile=20000:20000"], check=True)
    assert_none_lost(victim, running.stop())


def test_out_of_descriptors_it_does_not_spin_and_recovers(victim: Engine) -> None:
    pid = row_of(victim, "ingest")["pid"]
    with customers(victim) as running:
        few = len(os.listdir(f"/proc/{pid}/fd")) + 20
        subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={few}:20000"], check=True)
        silent: list[socket.socket] = []
        with contextlib.suppress(OSError):
            silent = connect(victim, 100)
        used_s, began = cpu_s(pid), time.monotonic()
        running.go_on(120)
        share = (cpu_s(pid) - used_s) / (time.monotonic() - began)
        print(f"{share:.0%} of a CPU with 60 messages a second")  # noqa: T201 - what a run saw
        assert share < 0.5
        for one in silent:
            one.close()
        eventually(lambda: send(victim) == 202)
        subprocess.run(["prlimit", f"--pid={pid}", "--nofile=20000:20000"], check=True)
    assert running.refusals == {}
    assert_none_lost(victim, running.stop())
