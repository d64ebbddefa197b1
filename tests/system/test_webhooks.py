"""Organisations are told of every event, whatever becomes of the notifier."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, answer
from tests.system.faults import fetch_processes

MESSAGES, KILLS = 100, 2


class Receiver(ThreadingHTTPServer):
    """Answers 200, and notes the message of each event by the id of the event."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.told: dict[str, set[str]] = {}
        self.tested = False


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if event["type"] == "webhook.test":
            self.server.tested = True
        else:
            self.server.told.setdefault(self.headers["webhook-id"], set()).add(event["data"]["id"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        serving = threading.Thread(target=receiver.serve_forever)
        serving.start()
        yield receiver
        receiver.shutdown()
        serving.join()


def notifier(engine: Engine, killed: set[int]) -> int:
    """The process of the notifier that is ready; 0 when there is none but those that were killed."""
    found = [p for p in fetch_processes(engine) if p["role"] == "notifier" and p["state"] == "ready"]
    return next((int(p["pid"]) for p in found if p["pid"] not in killed), 0)


def test_no_event_is_lost_when_the_notifier_is_killed_while_it_tells_them(
    engine: Engine, receiver: Receiver
) -> None:
    admin = Caller(engine.admin_url, engine.admin_key)
    made = admin.call("POST", "/v1/admin/organisations", {"name": "Told"})[1]
    top_up = {"units": 10_000, "reference": "first"}
    assert admin.call("POST", f"/v1/admin/organisations/{made['id']}/top-ups", top_up)[0] == 201
    url = f"http://127.0.0.1:{receiver.server_port}/"
    added = answer(engine.run("webhook", "add", made["id"], url, "--event", "message.sent", "--json"))
    assert added["events"] == ["message.sent"]
    caller, accepted = Caller(engine.url, made["api_key"]), set[str]()
    # The notifier looks once a second which endpoints there are.
    caller.call("POST", f"/v1/webhook-endpoints/{added['id']}/test")
    eventually(lambda: receiver.tested, 120)
    killed: set[int] = set()
    for _ in range(KILLS):
        pid, before = eventually(lambda: notifier(engine, killed), 120), len(receiver.told)
        draft = {"to": "+989121234567", "text": "hello", "queue": "express"}
        _, batch = caller.insist("/v1/messages/batch", {"messages": [draft] * MESSAGES})
        accepted |= {one["id"] for one in batch["results"]}
        eventually(lambda before=before: len(receiver.told) > before, 120)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    eventually(lambda: {i for ids in receiver.told.values() for i in ids} == accepted, timeout_s=120)
    assert all(len(ids) == 1 for ids in receiver.told.values()), "an event has one id"
    assert len(receiver.told) == len(accepted)
    # The last of them are listed, with what the receiver answered.
    path = f"/v1/webhook-endpoints/{added['id']}/deliveries"
    eventually(lambda: caller.call("GET", path)[1]["webhook_deliveries"])
    shown = engine.run("webhook", "delivered", made["id"], added["id"], "--json").stdout.splitlines()
    assert {(d["type"], d["url"]) for d in map(json.loads, shown)} <= {
        ("message.sent", url), ("webhook.test", url)
    }  # fmt: skip
    assert shown
