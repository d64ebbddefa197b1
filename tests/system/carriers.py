"""An engine with two carriers of different kinds, and express traffic to measure what they do to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from supervisor.simulator import Simulator, start_simulator
from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine, start_engine
from tests.system.faults import assert_clean

# What a carrier is given to answer, seconds.
TIMEOUT_S = 4

CONFIG = """
[queues.express]
concurrency = 100

[[providers]]
name = "a"
type = "smpp"
host = "127.0.0.1"
port = {smpp_port}
system_id = "engine"
password = "secret"
message_id_parameter = "1401"
timeout_s = {timeout_s}
enquire_link_s = 2
{smpp}

[[providers]]
name = "b"
type = "http"
preset = "simulated"
url = "{http_url}"
timeout_s = {timeout_s}
public_url = "http://127.0.0.1:{port}"
receipt_token = "token-of-the-test"
{http}

[[routes]]
prefix = ""
providers = ["a", "b"]
{route}
"""


@dataclass(kw_only=True)
class Carriers:
    """`a` is reached by SMPP, `b` by HTTP; express prefers `a`."""

    engine: Engine
    a: Simulator
    b: Simulator

    def received(self) -> tuple[set[str], int]:
        """Ids that either has taken, and how many sends there were beyond those."""
        ids: set[str] = set()
        sends = 0
        for simulator in (self.a, self.b):
            ids |= set(fetch(f"{simulator.url}/received?limit=1000000")["ids"])
            sends += fetch(f"{simulator.url}/stats")["received"]
        return ids, sends - len(ids)


@contextmanager
def carriers(
    folder: Path, smpp: str = "", http: str = "", route: str = "", roles: str = "", more: str = ""
) -> Iterator[Carriers]:
    """Further lines for the sections of the configuration; `more`: further sections."""
    a = start_simulator(smpp_listen="127.0.0.1:0")
    b = start_simulator()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "smsengine.toml"
    settings = CONFIG.format(
        smpp_port=a.smpp_port, http_url=b.url, port=0, smpp=smpp, http=http, route=route, timeout_s=TIMEOUT_S
    )
    config.write_text(roles + settings + more)
    engine = start_engine(folder / "data", ("--demo", "--config", config))
    try:
        yield Carriers(engine=engine, a=a, b=b)
    finally:
        engine.stop()
        engine.kill()
        a.stop()
        b.stop()


@dataclass
class Traffic:
    """Single express messages at an even rate, from a thread of its own."""

    engine: Engine
    per_s: float
    accepted: list[str] = field(default_factory=list)
    trouble: list[object] = field(default_factory=list)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._send, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert self.trouble == []

    def _send(self, stop: threading.Event) -> None:
        caller = Caller(self.engine.url, self.engine.api_key)
        due = time.monotonic()
        while not stop.is_set():
            message = {"to": "+989121234567", "text": f"code {len(self.accepted)}", "queue": "express"}
            try:
                status, answer = caller.insist("/v1/messages", message)
                assert status == 202, answer
                self.accepted.append(answer["id"])
            # A thread's failure is the test's: it is raised where the thread has ended.
            except BaseException as e:
                self.trouble.append(e)
                return
            due += 1 / self.per_s
            time.sleep(max(0.0, due - time.monotonic()))


def message_of(engine: Engine, message_id: str) -> dict[str, Any]:
    status, found = Caller(engine.url, engine.api_key).call("GET", f"/v1/messages/{message_id}")
    assert status == 200, found
    return dict(found)


def seconds_until(event: str, message: dict[str, Any]) -> float | None:
    """From its acceptance to the first such event; None when there is none."""
    for row in message["events"]:
        if row["event"] == event:
            at, accepted = (datetime.fromisoformat(t) for t in (row["at"], message["accepted_at"]))
            return (at - accepted).total_seconds()
    return None


def in_force(engine: Engine) -> None:
    """Wait until every worker routes by what was set before this call."""
    admin = Caller(engine.admin_url, engine.admin_key)
    version = admin.call("GET", "/v1/admin/providers")[1]["version"]

    def everywhere() -> bool:
        rows = admin.call("GET", "/v1/admin/status")[1]["processes"]
        workers = [row for row in rows if row["role"] in ("express", "normal")]
        return bool(workers) and all((row["routing"] or 0) >= version for row in workers)

    eventually(everywhere)


def nothing_waits(engine: Engine, timeout_s: float = 60.0) -> None:
    """Wait until everything has been sent."""

    def waits() -> bool:
        _, status = Caller(engine.admin_url, engine.admin_key).call("GET", "/v1/admin/status")
        return not any(q["waiting"] + q["in_hand"] + q["due"] for q in status["queues"].values())

    eventually(waits, timeout_s)


def all_sent(engine: Engine, ids: list[str], timeout_s: float = 60.0) -> list[dict[str, Any]]:
    """Wait until each has been sent; the messages."""
    nothing_waits(engine, timeout_s)
    return [message_of(engine, i) for i in ids]


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def audited(engine: Engine) -> None:
    """All laws are checked and hold."""
    assert_clean(engine)
