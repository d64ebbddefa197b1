"""Messages that are sent while the console is looked at."""

from __future__ import annotations

import itertools
import threading
from types import TracebackType

from tests.system.client import Caller
from tests.system.conftest import Engine

PERSIAN = "سلام، کد ورود شما ۴۸۲۹۱۳ است."
# What would be a picture, and run a script, if it were read as HTML.
HOSTILE = "<img src=x onerror=alert(1)>"


class Traffic:
    """Some messages a second of both queues, from a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        for number in itertools.count():
            queue = "normal" if number % 3 == 0 else "express"
            messages = [
                {
                    "to": f"+98912{number % 1000:04}{n:03}",
                    "text": PERSIAN,
                    "queue": queue,
                    "reference": "web-1",
                }
                for n in range(4 + number * 7 % 23)
            ]
            # A queue that a test has drained refuses them.
            send(self._engine, messages)
            if self._ended.wait(0.3):
                return


def send(engine: Engine, messages: list[dict[str, str]]) -> list[str]:
    """Submit messages together; the ids of those that were accepted."""
    _, answer = Caller(engine.url, engine.api_key).call("POST", "/v1/messages/batch", {"messages": messages})
    return [one["id"] for one in answer.get("results", []) if "id" in one]


def send_known_messages(engine: Engine) -> list[str]:
    """Messages of which the tests know the references; their ids."""
    return send(
        engine,
        [
            {"to": "+989121230001", "text": PERSIAN, "queue": "express", "reference": "known-1"},
            {"to": "+989121230002", "text": "Hello", "queue": "normal", "reference": HOSTILE},
        ],
    )
