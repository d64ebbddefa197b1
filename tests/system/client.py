"""A caller as the API's users write one: keep-alive, retries with the same Idempotency-Key."""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit


class Caller:
    """Calls one engine with one key. Not for several threads at once."""

    def __init__(self, url: str, key: str, timeout_s: float = 30.0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._address = parts.hostname, parts.port
        self.key = key
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        # Of the last answer.
        self.headers: http.client.HTTPMessage = http.client.HTTPMessage()

    def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Status and decoded answer of one call, sent once."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._address, timeout=self._timeout_s)
        try:
            sent = {"Authorization": f"Bearer {self.key}", **headers}
            payload = None if body is None else json.dumps(body)
            self._connection.request(method, path, payload, sent)
            answer = self._connection.getresponse()
            text = answer.read()
            self.headers = answer.headers
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            raise
        if answer.headers.get("Connection") == "close":
            self._connection.close()
            self._connection = None
        return answer.status, json.loads(text) if text else None

    def insist(self, path: str, body: object, timeout_s: float = 60.0) -> tuple[int, Any]:
        """A POST repeated under one Idempotency-Key until it is decided."""
        key, deadline = str(uuid.uuid4()), time.monotonic() + timeout_s
        while True:
            try:
                status, answer = self.call("POST", path, body, **{"Idempotency-Key": key})
                if status != 503:
                    return status, answer
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} was not decided in {timeout_s} s.")
            time.sleep(0.05)


def fetch(url: str | urllib.request.Request) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.loads(answer.read())


def behave(simulator_url: str, **behaviour: object) -> None:
    """Change how the simulated carrier behaves."""
    request = urllib.request.Request(
        f"{simulator_url}/behaviour", json.dumps(behaviour).encode(), method="PUT"
    )
    urllib.request.urlopen(request, timeout=60).close()


def eventually(holds: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """The first true value of `holds()`; AssertionError with the last one when none comes."""
    deadline = time.monotonic() + timeout_s
    while not (value := holds()):
        assert time.monotonic() < deadline, f"It did not come true in {timeout_s} s: {value!r}"
        time.sleep(0.1)
    return value
