"""Start the stand-in supervisor in a process of its own, and wait on what it does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from engine.nodes.records import OwnChange
from supervisor.process import snapshot
from supervisor.process.child_state import ChildState
from supervisor.process.snapshot import ProcessRow
from tests import warm

T = TypeVar("T")
DEADLINE_S = 60.0
ROOT = Path(__file__).parents[3]


def until(what: Callable[[], T | None], deadline_s: float = DEADLINE_S) -> T:
    """The first true answer; AssertionError when there is none in time."""
    end = time.monotonic() + deadline_s
    while not (answer := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
    return answer


def alive(pid: int) -> bool:
    return snapshot.start_of(pid) != 0


class Running:
    """One supervisor with its directory."""

    def __init__(
        self,
        here: Path,
        *,
        environment: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
        **options: Any,
    ) -> None:
        self.here = here
        self._stdout, self._stderr = here / "stdout", here / "stderr"
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            program = [
                sys.executable,
                "-m",
                "tests.supervisor.process.keeper_program",
                str(here),
                json.dumps(options),
            ]
            self.process = (subprocess if before else warm).Popen(
                [*before, *program],
                cwd=ROOT, stdout=out, stderr=err, stdin=subprocess.PIPE, start_new_session=True,
                pass_fds=pass_fds, env=os.environ | dict(environment or {}),
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stderr.split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def events(self, event: str) -> list[dict[str, Any]]:
        try:
            # What is being written right now has no end yet.
            *lines, _ = (self.here / "events").read_text().split("\n")
        except FileNotFoundError:
            return []
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def rows(self) -> dict[str, ProcessRow]:
        processes = snapshot.read(snapshot.path_in(self.here))
        return {f"{row.role} {row.index}": row for row in processes.processes} if processes else {}

    def changes(self) -> list[OwnChange]:
        """What was changed at the supervisor, as it writes it for the role `node`."""
        processes = snapshot.read(snapshot.path_in(self.here))
        return processes.changes if processes else []

    def ready(self) -> dict[str, ProcessRow]:
        """All rows, once the supervisor has printed that it is ready."""
        until(lambda: self.stdout.startswith("ready") or self.process.poll() is not None)
        assert self.process.poll() is None, self.stderr
        return until(lambda: self._all_ready())

    def successor(self, of: ProcessRow) -> ProcessRow:
        """The process that is ready in the place of this one."""

        def there() -> ProcessRow | None:
            row = self.rows().get(f"{of.role} {of.index}")
            return row if row and row.name != of.name and row.state == ChildState.READY else None

        return until(there)

    def fenced(self) -> list[str]:
        return [name for event in self.events("fenced") for name in event["names"]]

    def ask(self, role: str = "ingest") -> str:
        """The name of the process of this role, `ingest` or `admin`, that answers a connection."""
        port = int(self.stdout.split()[1 if role == "ingest" else 2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            return connection.recv(1000).decode()

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def end(self) -> int:
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """For clean-up: whatever is left."""
        pids = [event["pid"] for name in ("born", "server") for event in self.events(name)]
        if self.process.poll() is None:
            self.send(signal.SIGKILL)
            self.process.wait()
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _all_ready(self) -> dict[str, ProcessRow] | None:
        rows = self.rows()
        return rows if rows and all(row.state == ChildState.READY for row in rows.values()) else None


# Starts one, which is ended with the test: see `conftest.py`.
Start = Callable[..., Running]
