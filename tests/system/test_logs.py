"""What a whole run writes, with failures of every part: one event a line, and nothing that is secret."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, start_engine
from tests.system.test_outages import descendants

TEXT = "The parcel Zyxwv-4711 waits for you"
RECIPIENT = "+989121230987"
PASSWORD, TOKEN = "carrier-Qpassw0rd", "receipts-Qt0ken-of-the-carrier"
WRONG_KEY = "smse_1_wrongQkeywrongQkeywrongQkey"
CONFIG = """
[logs]
format = "json"
[[providers]]
name = "talkative"
type = "http"
preset = "kannel"
url = "{url}/cgi-bin/sendsms"
username = "engine"
password = "{password}"
public_url = "http://127.0.0.1:8080"
receipt_token = "{token}"
"""


class Talkative(BaseHTTPRequestHandler):
    """A carrier that refuses each message, and says all that it was sent."""

    def do_GET(self) -> None:
        answer = f"No such thing: {self.path} {TEXT} {RECIPIENT} {RECIPIENT[1:]} {PASSWORD}".encode()
        self.send_response(500)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def carrier() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Talkative) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def engine(tmp_path: Path, carrier: str) -> Iterator[Engine]:
    config = tmp_path / "smsengine.toml"
    config.write_text(CONFIG.format(url=carrier, password=PASSWORD, token=TOKEN))
    engine = start_engine(tmp_path / "data", ("--demo", "--config", config))
    yield engine
    engine.kill()


def go_wrong(engine: Engine) -> None:
    """Everything that a caller, a provider and a store can do to get into a log."""
    caller, stranger = Caller(engine.url, engine.api_key), Caller(engine.url, WRONG_KEY)
    message = {"to": RECIPIENT, "text": TEXT, "queue": "express", "from": "Zyxwv"}
    accepted = [caller.call("POST", "/v1/messages", message)[1]["id"] for _ in range(5)]
    wrong = [
        {"to": f"{RECIPIENT}12345678", "text": TEXT},
        {"to": RECIPIENT, "text": TEXT, "from": TEXT},
        TEXT,
    ]
    assert all(caller.call("POST", "/v1/messages", body)[0] in (400, 422) for body in wrong)
    assert stranger.call("POST", "/v1/messages", message)[0] == 401
    assert Caller(engine.admin_url, f"{engine.admin_key}x").call("GET", "/v1/admin/status")[0] == 401
    for token in (TOKEN, f"{TOKEN}x"):
        query = f"to={RECIPIENT[1:]}&text={TEXT.replace(' ', '+')}&password={PASSWORD}"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{engine.url}/v1/receipts/talkative/{token}?{query}", timeout=60).close()

    def tried() -> bool:
        views = [caller.call("GET", f"/v1/messages/{i}")[1] for i in accepted]
        return all(any("provider" in event for event in view["events"]) for view in views)

    eventually(tried)
    processes = {Path(f"/proc/{pid}/cmdline").read_bytes(): pid for pid in descendants(engine.pid)[1:]}
    for name in (b"valkey-server", b"smsengine: express 1"):
        os.kill(next(pid for line, pid in processes.items() if name in line), signal.SIGKILL)
    for _ in range(50):
        with contextlib.suppress(OSError, http.client.HTTPException):
            caller.call("POST", "/v1/messages", message)
    eventually(lambda: "server_restarted" in engine.log.read_text())
    eventually(lambda: caller.call("POST", "/v1/messages", message)[0] == 202)


def test_each_line_is_an_event_and_none_has_a_text_a_number_a_key_or_a_password(engine: Engine) -> None:
    go_wrong(engine)
    secrets = [TEXT, TEXT.replace(" ", "+"), TEXT.replace(" ", "%20"), "Zyxwv", RECIPIENT[1:]]
    secrets += [PASSWORD, TOKEN, WRONG_KEY, engine.api_key, engine.admin_key]
    config = json.loads((engine.data_dir / "run" / "engine.json").read_text())["config"]
    urls = [config[store]["url"] for store in ("redis", "postgres", "clickhouse")]
    passwords = [found[1] for url in urls if (found := re.search(r"://[^/@]*:([^/@]+)@", url))]
    assert len(passwords) >= 2
    assert engine.stop() == 0
    lines = engine.log.read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert {"child_ended", "server_ended", "server_restarted"} <= {event["event"] for event in events}
    written = {engine.log.name: "\n".join(lines)}
    written |= {path.name: path.read_text() for path in (engine.data_dir / "logs").glob("*")}
    assert len(written) >= 3
    for name, text in written.items():
        assert [secret for secret in secrets + passwords if secret in text] == [], name
