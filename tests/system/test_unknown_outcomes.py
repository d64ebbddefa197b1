"""A message whose outcome nobody ever knows: how often it is sent, how it ends and who pays, end to end."""

from __future__ import annotations

import os
import signal
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from supervisor.simulator import Simulator, start_simulator
from tests.system.carriers import message_of
from tests.system.client import Caller, behave, eventually, fetch
from tests.system.conftest import Engine, start_engine
from tests.system.faults import assert_clean, fetch_processes

CONFIG = """
[queues.normal]
unknown_outcome = "at-most-once"

[[providers]]
name = "odd"
type = "http"
preset = "kannel"
url = "{odd}/cgi-bin/sendsms"
username = "engine"
password = "secret"
timeout_s = 20
public_url = "http://127.0.0.1:1"
receipt_token = "token-of-the-test"

[[providers]]
name = "mute"
type = "smpp"
host = "127.0.0.1"
port = {mute}
system_id = "engine"
password = "secret"
timeout_s = 1.5
breaker_pause_s = 0.2

[[routes]]
prefix = "+98"
providers = ["odd"]

[[routes]]
prefix = "+44"
providers = ["mute"]
"""
ODD, MUTE = "+989121234567", "+447700900123"


class OddProvider(ThreadingHTTPServer):
    """Takes every message and answers 200 with the page of somebody else; it may hold an answer back."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _OddExchange)
        self.texts: Counter[str] = Counter()
        # (text, which send of it) whose answer never comes.
        self.held: set[tuple[str, int]] = set()
        self.never = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _OddExchange(BaseHTTPRequestHandler):
    server: OddProvider
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        text = parse_qs(urlsplit(self.path).query)["text"][0]
        self.server.texts[text] += 1
        if (text, self.server.texts[text]) in self.server.held:
            # Its caller is gone when it wakes.
            self.server.never.wait()
            self.close_connection = True
            return
        body = b"<html><title>Welcome to the router</title></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@dataclass
class World:
    engine: Engine
    odd: OddProvider
    mute: Simulator
    caller: Caller = field(init=False)

    def __post_init__(self) -> None:
        self.caller = Caller(self.engine.url, self.engine.api_key)

    def send(self, to: str, text: str, queue: str) -> str:
        message = {"to": to, "text": text, "queue": queue}
        status, accepted = self.caller.call("POST", "/v1/messages", message)
        assert status == 202, accepted
        return str(accepted["id"])

    def ended(self, message_id: str, status: str = "outcome_unknown", timeout_s: float = 60.0) -> Any:
        """The message, once it has this status and nothing of it is left anywhere."""
        return eventually(
            lambda: (m := message_of(self.engine, message_id))["status"] == status and m, timeout_s
        )

    def captured(self) -> int:
        """Units captured, once nothing is held and the audit is clean."""
        totals = eventually(lambda: (t := assert_clean(self.engine)["totals"])["held"] == 0 and t)
        return int(totals["captured"])

    def kill(self, role: str) -> None:
        """kill -9 of the worker of this role."""
        ready = eventually(
            lambda: [
                p["pid"] for p in fetch_processes(self.engine) if p["role"] == role and p["state"] == "ready"
            ]
        )
        os.kill(ready[0], signal.SIGKILL)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("unknown")
    odd, mute = OddProvider(), start_simulator(smpp_listen="127.0.0.1:0")
    config = folder / "smsengine.toml"
    config.write_text(CONFIG.format(odd=odd.url, mute=mute.smpp_port))
    engine = start_engine(folder / "data", ("--demo", "--config", config))
    try:
        yield World(engine, odd, mute)
    finally:
        engine.stop()
        engine.kill()
        mute.stop()
        odd.never.set()
        odd.shutdown()
        odd.server_close()


def test_a_provider_that_answers_nonsense_gets_a_message_three_times_and_a_receipt_still_counts(
    world: World,
) -> None:
    before = world.captured()
    message_id = world.send(ODD, "nonsense", "express")
    message = world.ended(message_id)
    assert (message["charge"], message["attempts"], message["outcome_unknown"]) == ("captured", 3, True)
    assert world.captured() == before + 1
    events = [(e["event"], e["provider"]) for e in message["events"]]
    assert events == [("accepted", ""), *[("retrying", "odd")] * 2, ("outcome_unknown", "odd")]
    assert world.odd.texts["nonsense"] == 3
    # The receipt names the message, as the provider was asked to; it moves no units.
    place = f"/v1/providers/odd/receipts/token-of-the-test?id={message_id}&state=1&to={ODD[1:]}&reply=0"
    urllib.request.urlopen(world.engine.url + place, timeout=60).close()
    assert world.ended(message_id, "delivered")["charge"] == "captured"
    assert world.captured() == before + 1


def test_a_provider_that_never_answers_a_submit_gets_a_message_three_times(world: World) -> None:
    behave(world.mute.url, error_rates={"timeout": 1})
    message = world.ended(world.send(MUTE, "no answer", "express"))
    assert (message["charge"], message["attempts"], message["provider"]) == ("captured", 3, "mute")
    assert_clean(world.engine)
    assert fetch(f"{world.mute.url}/stats")["received"] == 3


def test_the_send_of_a_worker_that_is_killed_counts(world: World) -> None:
    world.odd.held.add(("killed", 2))
    message_id = world.send(ODD, "killed", "express")
    eventually(lambda: world.odd.texts["killed"] == 2)
    world.kill("express")
    message = world.ended(message_id)
    assert (message["charge"], message["outcome_unknown"]) == ("captured", True)
    assert_clean(world.engine)
    assert world.odd.texts["killed"] == 3


@pytest.mark.parametrize("answered", [True, False])
def test_at_most_once_a_message_is_sent_once_also_when_its_worker_is_killed(
    world: World, answered: bool
) -> None:
    text = f"once {answered}"
    before = world.captured()
    if not answered:
        world.odd.held.add((text, 1))
    message_id = world.send(ODD, text, "normal")
    eventually(lambda: world.odd.texts[text] == 1)
    if not answered:
        world.kill("normal")
    message = world.ended(message_id)
    assert (message["charge"], message["outcome_unknown"]) == ("released", True)
    last = message["events"][-1]
    assert (last["event"], last["provider"]) == ("outcome_unknown_released", "odd" if answered else "")
    assert world.captured() == before
    assert world.odd.texts[text] == 1
