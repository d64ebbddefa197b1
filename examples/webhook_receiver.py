# ruff: noqa: T201 - it is a command that prints
"""A receiver of webhooks that prints what it is told, and checks the signatures; only the standard library.

    python examples/webhook_receiver.py [SECRET] [PORT]

Make an endpoint of http://127.0.0.1:9000/ and give the secret that you are shown (whsec_...). Without one,
signatures are not checked. See docs/webhooks.md.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import time
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A request that was signed longer ago may be an old one that somebody sends again, seconds.
OLDEST_S = 300


def is_signed(secret: str, headers: Message, body: bytes) -> bool:
    """Whether one of the signatures is that of `secret`, and not too old."""
    signed_at = headers["webhook-timestamp"]
    if abs(time.time() - int(signed_at)) > OLDEST_S:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{signed_at}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(expected, one) for one in headers["webhook-signature"].split())


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 for what is signed as it should be, else 400."""

    protocol_version = "HTTP/1.1"
    secret = ""
    # An event may come more than once, always under one id. A real receiver keeps them where it keeps its
    # data.
    seen: set[str] = set()

    def do_POST(self) -> None:
        """Take one event."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.secret and not is_signed(self.secret, self.headers, body):
            print("a request with a wrong signature was refused", flush=True)
            self._answer(400)
            return
        event, event_id = json.loads(body), self.headers["webhook-id"]
        again = " again" if event_id in self.seen else ""
        self.seen.add(event_id)
        print(
            f"{event['timestamp']} {event['type']} {event_id}{again} {json.dumps(event['data'])}", flush=True
        )
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing beside what `do_POST` prints."""


class Server(ThreadingHTTPServer):
    """Serves each connection in a thread."""

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke off is no error: what it was to bring comes again."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    """Serve until Ctrl-C."""
    Receiver.secret = next((word for word in sys.argv[1:] if word.startswith("whsec_")), "")
    port = next((int(word) for word in sys.argv[1:] if word.isdecimal()), 9000)
    print(f"waiting for webhooks at http://127.0.0.1:{port}/", flush=True)
    Server(("127.0.0.1", port), Receiver).serve_forever()


if __name__ == "__main__":
    main()
