"""`smsengine up` as a service of systemd: what it says, the socket it is given, and how it is stopped."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import DRAIN_ORDER
from engine.hosts.cpu_turns import FIRST_NICE, SLICE_NS
from tests.hosts.test_cpu_turns import GIVES_SLICES, slice_ns
from tests.supervisor.process.systemd_peer import AS_SYSTEMD, Systemd
from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import COMMAND, ROOT, Engine, environment, start_engine
from tests.system.faults import assert_clean
from tests.system.test_outages import descendants


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


def started(tmp_path: Path, systemd: Systemd, listener: socket.socket) -> Engine:
    return start_engine(
        tmp_path / "data",
        listen=("--admin-listen", "127.0.0.1:0"),
        before=(sys.executable, "-c", AS_SYSTEMD, str(listener.fileno())),
        pass_fds=(listener.fileno(),),
        variables={"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "4000000"},
    )


def test_it_tells_systemd_how_it_is_and_listens_where_systemd_does(tmp_path: Path, systemd: Systemd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        engine = started(tmp_path, systemd, listener)
        try:
            said = systemd.hear("READY=1")
            # On a busy machine a start takes longer than what the watchdog waits for.
            told = [text for text in said if text != "WATCHDOG=1"]
            steps = [text.partition("\n")[0].removeprefix("STATUS=") for text in told]
            assert steps[:2] == ["starting the servers", "bringing the tables to this version"]
            assert steps[-2].startswith("starting, ")
            systemd.hear("STATUS=8 of 8 processes ready")
            assert engine.url == f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert fetch(f"{engine.url}/readyz")
            systemd.hear("WATCHDOG=1")
            for pid in descendants(engine.pid)[1:]:
                names = Path(f"/proc/{pid}/environ").read_bytes()
                assert b"NOTIFY_SOCKET" not in names or pid in forked(engine), pid
            if GIVES_SLICES:
                assert with_short_turns(engine) == {"valkey", "smsengine: ingest", "smsengine: express"}
            own = os.getpriority(os.PRIO_PROCESS, 0)
            # Only root may lower it.
            first = own - FIRST_NICE if os.geteuid() == 0 else own
            assert nice_values(engine, "valkey") == {first}
            assert nice_values(engine, "smsengine: normal") == {own}
            assert engine.stop() == 0
            systemd.hear("STOPPING=1")
            systemd.hear("STATUS=draining")
            systemd.hear("STATUS=stopping the servers")
            # The socket is systemd's and stays open: who calls meanwhile is answered by the next start.
            with socket.create_connection(listener.getsockname()):
                pass
        finally:
            engine.kill()


def forked(engine: Engine) -> set[int]:
    """The roles: /proc shows them the environment with which the supervisor was started, not their own."""
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(engine.pid)}
    return {pid for pid, title in titles.items() if title.startswith("smsengine: ")}


def with_short_turns(engine: Engine) -> set[str]:
    """The processes whose turns on the CPU are short, by their first words."""
    found = set()
    for pid in descendants(engine.pid):
        if slice_ns(pid) == SLICE_NS:
            title = Path(f"/proc/{pid}/cmdline").read_text()
            found.add("valkey" if "valkey" in title else title.rstrip("\0").rsplit(" ", 1)[0])
    return found


def nice_values(engine: Engine, title: str) -> set[int]:
    """Of the processes with this in their title."""
    return {
        os.getpriority(os.PRIO_PROCESS, pid)
        for pid in descendants(engine.pid)
        if title in Path(f"/proc/{pid}/cmdline").read_text()
    }


def refused(tmp_path: Path, *sockets: socket.socket, arguments: tuple[str, ...] = ()) -> str:
    """What it says on stderr when systemd hands over these sockets; it must end by itself."""
    fds = [s.fileno() for s in sockets]
    done = subprocess.run(
        [sys.executable, "-c", AS_SYSTEMD, ",".join(map(str, fds)), *COMMAND, "up", "--demo",
         "--data-dir", str(tmp_path / "data"), *arguments],
        pass_fds=fds, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    return done.stderr


def test_sockets_that_it_cannot_use_are_refused_in_one_sentence(tmp_path: Path) -> None:
    must = (
        "The systemd socket unit must give one listening TCP socket (one ListenStream= with a port), and "
        "another may give one for the admin calls (FileDescriptorName=admin).\n"
    )
    with contextlib.ExitStack() as stack:
        tcp, more = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        unix.bind(str(tmp_path / "unix"))
        unix.listen()
        assert refused(tmp_path, tcp, more) == (
            f"smsengine: systemd handed over 2 sockets, and two for the same. {must}"
        )
        assert refused(tmp_path, datagrams) == f"smsengine: {must}"
        assert refused(tmp_path, unix) == f"smsengine: {must}"
        assert refused(tmp_path, tcp, arguments=("--listen", "127.0.0.1:0")) == (
            "smsengine: --listen must be left out: systemd hands over the socket to listen on.\n"
        )
    assert not (tmp_path / "data").exists()


class Sending:
    """A thread that sends batches until the engine takes no more."""

    def __init__(self, engine: Engine) -> None:
        self.accepted: list[str] = []
        self._caller = Caller(engine.url, engine.api_key)
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        body = {"messages": [{"to": "+989121234567", "text": "hello"}] * 50}
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                status, answer = self._caller.call("POST", "/v1/messages/batch", body)
                if status != 202:
                    return
                self.accepted += [result["id"] for result in answer["results"]]
                time.sleep(0.02)

    def ended(self) -> list[str]:
        self._thread.join()
        return self.accepted


def drained(data_dir: Path, whole_unit: bool) -> set[str]:
    """Start under load, end by SIGTERM to the supervisor or to every process, and go down in order.

    Returns what was accepted.
    """
    engine = start_engine(data_dir)
    try:
        sending = Sending(engine)
        eventually(lambda: len(sending.accepted) > 500)
        # As systemd stops a unit (KillMode=control-group), in no order that could be relied on.
        for pid in descendants(engine.pid) if whole_unit else [engine.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        assert engine.process.wait(60) == 0
        log = engine.log.read_text()
        lines = [line for line in log.splitlines() if "child_drain " in line or "child_ended" in line]
        steps = [re.findall(r'(child_\w+) .*child="(\w+) 1"', line)[0] for line in lines]
        assert steps == [(step, role) for role in DRAIN_ORDER for step in ("child_drain", "child_ended")]
        assert "Traceback" not in log
    finally:
        engine.kill()
    return set(sending.ended())


def sent(caller: Caller) -> Iterator[str]:
    """The ids of all messages that are with the provider, by pages; fewer when a page takes too long."""
    page, cursor = "?status=sent&limit=500", ""
    while True:
        status, found = caller.call("GET", f"/v1/messages{page}{cursor}")
        if status == 503:
            return
        yield from (message["id"] for message in found["messages"])
        if not found["next"]:
            return
        cursor = f"&cursor={found['next']}"


def test_sigterm_under_load_drains_in_order_and_the_next_start_goes_on(tmp_path: Path) -> None:
    accepted = drained(tmp_path / "data", whole_unit=False)
    (tmp_path / "data.log").rename(tmp_path / "first.log")
    accepted |= drained(tmp_path / "data", whole_unit=True)
    last = start_engine(tmp_path / "data")
    try:
        caller = Caller(last.url, last.api_key)
        eventually(lambda: not accepted - set(sent(caller)), timeout_s=60)
        totals = eventually(lambda: (t := assert_clean(last)["totals"])["held"] == 0 and t)
        assert totals["captured"] >= len(accepted)
        # One batch each time at most was accepted and its answer not heard.
        assert totals["captured"] <= len(accepted) + 2 * 50
        assert last.stop() == 0
    finally:
        last.kill()
