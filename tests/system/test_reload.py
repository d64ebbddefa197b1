"""Providers added and changed while the engine works: SIGHUP, on the whole engine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError
from supervisor.cli.client import Client
from tests.system.client import Caller, behave, eventually, fetch
from tests.system.conftest import Engine, answer, start_engine

DRAFT = {"to": "+989121234567", "text": "Your code is 123456"}
ONE = '[[providers]]\nname = "one"\n'
TWO_FIRST = '[[providers]]\nname = "two"\n' + ONE


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reload") / "smsengine.toml"
    path.write_text(ONE)
    return path


@pytest.fixture(scope="module")
def engine(config: Path) -> Iterator[Engine]:
    """One engine for all tests, which begin with ONE in force."""
    admin = ("--admin-listen", f"unix:{config.with_name('admin.sock')}")
    engine = start_engine(config.with_name("data"), ("--demo", "--config", config, *admin))
    yield engine
    engine.stop()
    engine.kill()
    assert "Traceback" not in engine.log.read_text()


class Customer(threading.Thread):
    """Sends one message after another on either queue, each until it is accepted."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._caller = Caller(engine.url, engine.api_key)
        self.enough = threading.Event()
        self.accepted: list[str] = []
        self.failure = ""

    def run(self) -> None:
        while not self.enough.is_set():
            queue = "express" if len(self.accepted) % 2 else "normal"
            status, told = self._caller.insist("/v1/messages", {**DRAFT, "queue": queue})
            if status != 202:
                self.failure = f"{status}: {told}"
                return
            self.accepted.append(told["id"])
            time.sleep(0.01)


class Operator(threading.Thread):
    """Asks for the prices again and again, on the Unix socket of the admin calls, each time anew."""

    def __init__(self, engine: Engine, enough: threading.Event) -> None:
        super().__init__()
        self._engine, self._enough = engine, enough
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._enough.is_set():
            client = Client(self._engine.admin_url, self._engine.admin_key, 20)
            try:
                client.call("GET", "/v1/admin/prices")
            except EngineError as e:
                self.failures.append(str(e))
            client.close()
            time.sleep(0.02)


def reload(engine: Engine, config: Path, text: str, outcome: str) -> str:
    """Write the configuration, ask for it, and wait for what the log says of it; the line."""

    def lines() -> list[str]:
        return [line for line in engine.log.read_text().splitlines() if outcome in line]

    before = len(lines())
    config.write_text(text)
    os.kill(engine.pid, signal.SIGHUP)
    eventually(lambda: len(lines()) > before, timeout_s=60)
    return lines()[-1]


def provider_of(caller: Caller, message_id: str) -> str:
    def sent() -> str:
        status, view = caller.call("GET", f"/v1/messages/{message_id}")
        return str(view["provider"]) if status == 200 and view["status"] == "sent" else ""

    return str(eventually(sent))


def test_a_provider_is_added_while_messages_go_on_and_none_is_lost(engine: Engine, config: Path) -> None:
    customer = Customer(engine)
    caller = Caller(engine.url, engine.api_key)
    operator = Operator(engine, customer.enough)
    customer.start()
    operator.start()
    try:
        eventually(lambda: len(customer.accepted) > 20)
        reload(engine, config, TWO_FIRST, "reloaded")
        seen = len(customer.accepted)
        eventually(lambda: len(customer.accepted) > seen + 20 or customer.failure)
    finally:
        customer.enough.set()
        customer.join()
        operator.join()
    assert (customer.failure, operator.failures) == ("", [])
    assert provider_of(caller, customer.accepted[0]) == "one"
    for message_id in customer.accepted[-2:]:
        assert provider_of(caller, message_id) == "two"
    accepted = set(customer.accepted)
    assert len(accepted) == len(customer.accepted)
    received = f"{engine.simulator_url}/received?limit=1000000"
    eventually(lambda: set(fetch(received)["ids"]) == accepted)
    assert len(fetch(received)["ids"]) == len(accepted), "none was sent twice"
    assert answer(engine.run("audit", "--json"))["clean"] is True
    listed = answer(engine.run("provider", "list", "--json"))
    assert [p["name"] for p in listed["providers"]] == ["two", "one"]
    assert answer(engine.run("check", "--json"))["ok"] is True
    reload(engine, config, ONE, "reloaded")


def test_what_cannot_be_is_one_sentence_in_the_log_and_the_engine_goes_on(
    engine: Engine, config: Path
) -> None:
    before = {p["name"] for p in answer(engine.run("status", "--json"))["processes"]}
    for text, sentence in (
        ("[[providers]\n", "is not TOML"),
        (
            "shards = 4\n" + ONE,
            "`shards` must be 16 or left out, not 4: the data of this engine are spread over 16 shards,"
            " and that cannot be changed.",
        ),
        ("[redis]\nurl = 'redis://127.0.0.1:9'\n" + ONE, "redis.url cannot be changed"),
        (ONE + "[[routes]]\nproviders = ['two']\n", "routes.0.providers must be names of configured"),
    ):
        assert sentence in reload(engine, config, text, "reload_failed")
    config.unlink()
    os.kill(engine.pid, signal.SIGHUP)
    eventually(lambda: "cannot be read: No such file" in engine.log.read_text())
    assert {p["name"] for p in answer(engine.run("status", "--json"))["processes"]} == before
    answer(engine.run("send", "--to", "+989121234567", "--text", "still here", "--json"))


def test_autoscaling_begins_and_ends_with_a_reload_and_says_why(engine: Engine, config: Path) -> None:
    def express() -> dict[str, Any]:
        return next(p for p in answer(engine.run("status", "--json"))["processes"] if p["role"] == "express")

    def last() -> dict[str, Any] | None:
        return answer(engine.run("status", "--json"))["nodes"][0]["scaled"].get("express")

    before = express()["concurrency"]
    narrow = "[queues.express]\nconcurrency = 1\n[autoscale.express]\nconcurrency_min = 1\n"
    behave(engine.simulator_url, latency={"constant_ms": 300})
    try:
        reload(engine, config, ONE + narrow, "reloaded")
        pid = express()["pid"]
        caller = Caller(engine.url, engine.api_key)
        burst = {"messages": [DRAFT | {"queue": "express"}] * 100}
        assert caller.insist("/v1/messages/batch", burst)[0] in (200, 202)
        change = eventually(last)
        assert change["concurrency"] > change["concurrency_before"] == 1
        assert "messages/s arrive" in change["reason"]
        eventually(lambda: express()["concurrency"] == (last() or {})["concurrency"])
        assert express()["pid"] == pid, "no process for what concurrency can do"
        assert "autoscaled express 1 × " in engine.run("status").stdout

        answer(engine.run("queue", "scale", "express", "1", "--concurrency", "7", "--json"))
        eventually(lambda: express()["concurrency"] == 7)
        answer(engine.run("queue", "scale", "express", "as-configured", "--json"))
        eventually(lambda: express()["concurrency"] > 7)
    finally:
        behave(engine.simulator_url, latency={"constant_ms": 0})
        reload(engine, config, ONE, "reloaded")
    assert express()["concurrency"] == before
    assert eventually(lambda: last() is None)


def test_routes_and_pauses_made_at_run_time_outlive_a_reload_and_a_restart(
    engine: Engine, config: Path
) -> None:
    reload(engine, config, TWO_FIRST, "reloaded")
    routes = answer(engine.run("route", "set", "+98", "one=1", "two=3", "--json"))
    answer(engine.run("provider", "pause", "one", "--json"))
    reload(engine, config, TWO_FIRST + "[[routes]]\nproviders = ['one']\n", "reloaded")
    assert answer(engine.run("route", "list", "--json"))["routes"] == routes["routes"]
    assert engine.stop() == 0
    again = start_engine(config.with_name("data"), ("--demo", "--config", config))
    try:
        assert answer(again.run("route", "list", "--json"))["routes"] == routes["routes"]
        listed = answer(again.run("provider", "list", "--json"))["providers"]
        assert {p["name"]: p["paused"] for p in listed} == {"one": True, "two": False}
        assert again.stop() == 0
    finally:
        again.kill()
