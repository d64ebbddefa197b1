"""An engine as small as the tests of `smsengine send` need it.

It keeps what it accepted by Idempotency-Key, as the real one does; a test may have it fail.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What the server does with a request before it answers: None, or what it did instead.
Fault = Callable[["Engine", BaseHTTPRequestHandler, dict[str, Any]], bool]


class Engine:
    """Accepts batches once per key."""

    def __init__(self) -> None:
        self.fault: Fault = lambda engine, request, body: False
        self.answers: dict[str, bytes] = {}
        self.accepted: Counter[str] = Counter()
        self.requests = 0
        self.lock = threading.Lock()
        engine = self

        class Request(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with engine.lock:
                    engine.requests += 1
                    if not engine.fault(engine, self, body):
                        self.answer(202, engine.accept(self.headers["Idempotency-Key"], body))

            def do_GET(self) -> None:
                self.answer(200, b'{"posted":1,"held":0,"available":1}')

            def answer(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def accept(self, key: str, body: dict[str, Any]) -> bytes:
        if key not in self.answers:
            results = [self.result(m) for m in body["messages"]]
            self.answers[key] = json.dumps({"results": results}).encode()
        return self.answers[key]

    def result(self, message: dict[str, Any]) -> dict[str, Any]:
        if not message["to"].startswith("+"):
            return {"error": {"status": 422, "code": "invalid_number", "detail": "Bad number."}}
        self.accepted[message["to"]] += 1
        return {"id": message["to"][1:], "status": "accepted", "segments": 1, "units": 2}
