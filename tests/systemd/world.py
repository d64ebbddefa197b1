"""The engine as an installed service in a machine of its own, and callers that count every failure."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

from supervisor.simulator import Simulator
from tests.system.client import Caller, eventually, fetch
from tests.systemd.machine import Machine

CONFIGURATION = "/etc/smsengine/smsengine.toml"
SOCKET = "/etc/systemd/system/smsengine.socket.d"
ADMIN_SOCKET = "/etc/systemd/system/smsengine-admin.socket.d"
UNIT = "/etc/systemd/system/smsengine.service.d/test.conf"


class Service:
    """The installed service with one organisation that has credit, and a provider outside of the machine."""

    def __init__(self, machine: Machine, address: str, configuration: str, provider: Simulator) -> None:
        self.machine = machine
        self.address = address
        self.url = f"http://{address}"
        self.configuration = configuration
        self.provider = provider
        self.key = ""

    def systemctl(self, verb: str, check: bool = True) -> str:
        done = self.machine.run("systemctl", verb, "smsengine.service", check=False)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{output}{self.machine.journal('--lines=40')}"
        return output

    def command(self, *arguments: object, check: bool = True) -> Any:
        """What a command of the installed `smsengine` answers, decoded."""
        return json.loads(
            self.machine.run("/usr/local/bin/smsengine", *arguments, "--json", check=check).stdout
        )

    def main_pid(self) -> int:
        (pid,) = self.machine.show("smsengine.service", "MainPID")
        return int(pid)

    def restarts(self) -> int:
        (count,) = self.machine.show("smsengine.service", "NRestarts")
        return int(count)

    def status(self) -> str:
        """The line that `systemctl status` shows."""
        (line,) = self.machine.show("smsengine.service", "StatusText")
        return line

    def drained(self, pid: int) -> list[str]:
        """The roles whose processes drained when that supervisor stopped, in their order."""
        journal = self.machine.journal(f"_PID={pid}", "--output=cat")
        lines = journal.partition("supervisor_stopping")[2].splitlines()
        ended = [
            line for line in lines if "child_ended" in line and "state=draining" in line and "code=0" in line
        ]
        roles = [line.partition('child="')[2].split()[0] for line in ended]
        return [role for n, role in enumerate(roles) if role not in roles[:n]]

    def processes(self) -> dict[str, dict[str, Any]]:
        """The rows of `smsengine status`, by role and index."""
        return {f"{p['role']} {p['index']}": p for p in self.command("status")["processes"]}

    def audit_is_clean(self) -> bool:
        return bool(self.command("audit", check=False)["verdict"] == "clean")

    def received(self) -> set[str]:
        """The ids of the messages that the provider took."""
        return set(fetch(f"{self.provider.url}/received?limit=1000000")["ids"])

    def assert_none_lost_or_doubled(self, accepted: list[str]) -> None:
        """Every message is at the provider exactly once, and each unit of credit is accounted for."""
        self.assert_none_lost(accepted)
        repeated = fetch(f"{self.provider.url}/received?duplicates=1")["duplicates"]
        assert set(repeated) & set(accepted) == set()

    def assert_none_lost(self, accepted: list[str]) -> None:
        """Every message is at the provider, and each unit of credit is accounted for.

        After a kill some may be there twice: nobody knows whether the provider has taken them.
        """
        assert len(set(accepted)) == len(accepted)
        eventually(lambda: not set(accepted) - self.received(), timeout_s=90)
        eventually(self.audit_is_clean, timeout_s=30)


class Load:
    """Callers that send one message a request, each request once, and note each one that fails.

    Every other one keeps its connection; the rest connect anew for each request. `patient`: a request
    may fail by a connection that ends, and is sent again with its idempotency key.
    """

    def __init__(
        self, service: Service, callers: int = 8, pause_s: float = 0.01, patient: bool = False
    ) -> None:
        self.accepted: list[str] = []
        self.failures: list[str] = []
        # Connections that nobody listened for.
        self.refused = 0
        self.slowest_s = 0.0
        self._service, self._pause_s, self._patient = service, pause_s, patient
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(i % 2 == 0,)) for i in range(callers)]
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> float:
        """End it; the requests a second that there were."""
        self._enough.set()
        for thread in self._threads:
            thread.join()
        return len(self.accepted) / (time.monotonic() - self._began)

    def _send(self, keep: bool) -> None:
        caller = Caller(self._service.url, self._service.key)
        while not self._enough.is_set():
            queue = "express" if keep else "normal"
            body = {"to": "+989121234567", "text": "Your code is 4711", "queue": queue}
            close = {} if keep else {"Connection": "close"}
            began = time.monotonic()
            try:
                key = {"Idempotency-Key": str(uuid.uuid4())}
                status, answer = self._decided(caller, body, **key, **close)
                if status == 202:
                    self.accepted.append(answer["id"])
                else:
                    self.failures.append(f"{status}: {answer}")
            # A thread's failure is the test's.
            except Exception as e:
                self.failures.append(f"{'kept' if keep else 'new'} connection: {e!r}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            time.sleep(self._pause_s)

    def _decided(self, caller: Caller, body: object, **headers: str) -> tuple[int, Any]:
        until = time.monotonic() + 60
        while True:
            try:
                status, answer = caller.call("POST", "/v1/messages", body, **headers)
                if status != 503 or not self._patient:
                    return status, answer
            except (OSError, HTTPException) as e:
                self.refused += isinstance(e, ConnectionRefusedError)
                if not self._patient or time.monotonic() > until:
                    raise
            time.sleep(0.05)


@contextmanager
def load(service: Service, **options: Any) -> Iterator[Load]:
    """A load while the block runs; it has begun when the block does."""
    running = Load(service, **options)
    try:
        eventually(lambda: len(running.accepted) > 100 or running.failures)
        yield running
    finally:
        running.stop()
