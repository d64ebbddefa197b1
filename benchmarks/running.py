"""An engine under measurement: started from the command line, watched from outside."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from supervisor.embedded.recipes import Postgres
from supervisor.embedded.server_dir import ServerDir

_HERE = Path(__file__).resolve().parent.parent
# So many calls at a time make organisations.
_CALLS = 8


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running engine: its supervisor's process id, and where it and its simulator answer."""

    pid: int
    url: str
    admin_url: str
    admin_key: str
    simulator_url: str
    data_dir: Path

    @property
    def redis_url(self) -> str:
        """Where its embedded Redis answers, with the password."""
        password = ServerDir(self.data_dir, "redis").password()
        port = int((self.data_dir / "run" / "redis.port").read_text())
        return f"redis://:{password}@127.0.0.1:{port}/0"

    @property
    def postgres_url(self) -> str:
        """Where its embedded PostgreSQL answers, with the password."""
        port = int((self.data_dir / "run" / "postgres.port").read_text())
        return Postgres().url(port, ServerDir(self.data_dir, "postgres").password())

    def call(self, method: str, path: str, body: object = None, timeout_s: float = 150.0) -> Any:
        """The decoded answer to a call with the admin key. Raises HTTPError for a status from 400."""
        request = urllib.request.Request(
            self.admin_url + path,
            method=method,
            data=None if body is None else msgspec.json.encode(body),
            headers={"Authorization": f"Bearer {self.admin_key}"},
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return msgspec.json.decode(answer.read())

    def audit(self, timeout_s: float = 60.0) -> Any:
        """An audit, asked for until all laws could be checked or `timeout_s` are over."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.call("GET", "/v1/admin/audit")
            if found["verdict"] != "not_checked" or time.monotonic() > deadline:
                return found
            time.sleep(1.0)

    def simulator_stats(self) -> dict[str, int]:
        """The simulator's counts: `received`, `distinct`, `duplicates`."""
        with urllib.request.urlopen(f"{self.simulator_url}/stats", timeout=30) as answer:
            return msgspec.json.decode(answer.read(), type=dict[str, int])

    def organisations(self, count: int, units: int) -> list[str]:
        """API keys of `count` new organisations with `units` of credit each."""

        def make(i: int) -> str:
            organisation = self.call("POST", "/v1/admin/organisations", {"name": f"load {i}"})
            top_up = {"units": units, "reference": "load"}
            self.call("POST", f"/v1/admin/organisations/{organisation['id']}/top-ups", top_up)
            return str(organisation["api_key"])

        with ThreadPoolExecutor(_CALLS) as threads:
            return list(threads.map(make, range(count)))

    def memory_mib(self) -> dict[str, float]:
        """Anonymous memory of each process of the engine, MiB, by a short name of the process."""
        found: dict[str, float] = {}
        for pid in descendants(self.pid):
            with contextlib.suppress(OSError, ValueError, IndexError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                kib = int(rollup.partition("Anonymous:")[2].split()[0])
                name = _short(title)
                found[name] = found.get(name, 0.0) + kib / 1024
        return found

    def cpu_s(self) -> dict[str, float]:
        """CPU time used so far by each process of the engine, seconds, by the same names.

        With that of its children that have ended, such as the one that rewrites the file of Redis.
        """
        found: dict[str, float] = {}
        for pid in descendants(self.pid):
            with contextlib.suppress(OSError, ValueError, IndexError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found[_short(title)] = found.get(_short(title), 0.0) + cpu_s_of(pid, ended=True)
        return found

    def wakes(self) -> dict[str, int]:
        """How often the threads of each process of the engine have given up the processor so far, by the same
        names."""
        found: dict[str, int] = {}
        for pid in descendants(self.pid):
            with contextlib.suppress(OSError, ValueError, IndexError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                for status in Path(f"/proc/{pid}/task").glob("*/status"):
                    given_up = status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0]
                    found[_short(title)] = found.get(_short(title), 0) + int(given_up)
        return found


@contextlib.contextmanager
def engine(
    configuration: str,
    port: int = 0,
    place: Path | None = None,
    root: Path = _HERE,
    module: str = "supervisor.cli",
) -> Iterator[Engine]:
    """A demo engine with this TOML, stopped at the end.

    It runs in a temporary directory, or in `place`, where its data and its log stay. `root`: that of the
    version of the engine. `module`: of its command.
    """
    with tempfile.TemporaryDirectory(prefix="smsengine-bench-") as temporary:
        folder = str(place or temporary)
        Path(folder).chmod(0o755)
        config = Path(folder, "smsengine.toml")
        config.write_text(configuration)
        log = Path(folder, "log")
        command = [sys.executable, "-m", module, "up", "--demo", "--json", "--config", str(config)]
        command += ["--data-dir", f"{folder}/data", "--listen", f"127.0.0.1:{port}"]
        with log.open("ab") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, cwd=root)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"The engine did not start:\n{log.read_text()[-2000:]}")
            facts = msgspec.json.decode(line)
            yield Engine(
                pid=process.pid,
                url=facts["url"],
                admin_url=facts["admin_url"],
                admin_key=facts["admin_key"],
                simulator_url=facts["simulator_url"],
                data_dir=Path(folder, "data"),
            )
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            if code:
                print(f"The engine ended with {code}:\n{log.read_text()[-2000:]}", file=sys.stderr)


def settled(engine: Engine, received: int, timeout_s: float) -> float:
    """Wait until the simulator has `received` messages and no queue holds any: the seconds waited."""
    start = time.monotonic()
    while time.monotonic() - start < timeout_s:
        if engine.simulator_stats()["received"] >= received:
            queues = engine.call("GET", "/v1/admin/status")["queues"].values()
            if not any(q["waiting"] + q["in_hand"] + q["due"] for q in queues):
                break
        time.sleep(0.2)
    return time.monotonic() - start


def ours_s(target: Engine) -> float:
    """CPU time that the engine and this process have used so far, seconds. A worker that is killed takes its
    own with it."""
    return sum(target.cpu_s().values()) + time.process_time()


def cpu_s_of(pid: int, *, ended: bool = False) -> float:
    """CPU time that a process has used so far, with its threads, seconds. Raises OSError once it is gone.

    `ended`: with that of its children that it has waited for.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if ended else 13])) / 100


def descendants(pid: int) -> list[int]:
    """The process and all that it and its children have started, those that run."""
    found = [pid]
    for at in found:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{at}/task/{at}/children").read_text().split()
            found.extend(int(child) for child in children)
    return found


def _short(title: str) -> str:
    if title.startswith("smsengine: "):
        return title.removeprefix("smsengine: ").split()[0]
    for word in ("clickhouse", "simulator", "postgres", "valkey", "redis"):
        if word in title:
            return "redis" if word == "valkey" else word
    # A process that has just ended has no title any more.
    return title.split()[0].rpartition("/")[2] if title else "ended"
