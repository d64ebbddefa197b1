"""Sending a file: no message is lost or sent twice, whatever the connection does.

The engine on the other side is a small server of this test: it keeps what it accepted by
Idempotency-Key, as the real one does, and can be told to fail in the ways networks do.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engine.errors import Refusal, Unavailable
from engine.records import MessageDraft
from supervisor import send
from supervisor.client import Client
from supervisor.message_file import Line
from supervisor.send import NOT_A_MESSAGE, NOT_ANSWERED, Outcome, Sender

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


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    thread = threading.Thread(target=engine.server.serve_forever, args=(0.01,))
    thread.start()
    yield engine
    engine.server.shutdown()
    engine.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "PAUSE_S", 0.01)


def lines(count: int) -> list[Line]:
    return [Line(number=n, draft=MessageDraft(to=f"+{n}", text="a")) for n in range(1, count + 1)]


def sender(engine: Engine, **options: Any) -> Sender:
    return Sender(connect=lambda: Client(engine.url, "k", 5.0), run_key="run", **({"batch": 7} | options))


def run(sender: Sender, given: Iterable[Line], into: list[Outcome] | None = None) -> list[Outcome]:
    outcomes = into if into is not None else []
    for some in sender.run(given):
        outcomes += some
    return outcomes


def test_every_line_is_accepted_once_and_told_in_order(engine: Engine) -> None:
    outcomes = run(sender(engine), lines(100))
    assert [o.line.number for o in outcomes] == list(range(1, 101))
    assert {o.code for o in outcomes} == {""}
    assert engine.accepted == Counter({f"+{n}": 1 for n in range(1, 101)})


def test_refused_lines_are_told_and_the_others_accepted(engine: Engine) -> None:
    given = lines(20)
    given[3] = Line(number=4, draft=None, reason="text is missing")
    given[11] = Line(number=12, draft=MessageDraft(to="0912", text="a"))
    refused = {o.line.number: (o.code, o.detail) for o in run(sender(engine), given) if o.code}
    assert refused == {4: (NOT_A_MESSAGE, "text is missing"), 12: ("invalid_number", "Bad number.")}
    assert len(engine.accepted) == 18


def test_lost_answers_do_not_double(engine: Engine) -> None:
    def lose_every_third(engine: Engine, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if engine.requests % 3:
            return False
        engine.accept(request.headers["Idempotency-Key"], body)
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
        return True

    engine.fault = lose_every_third
    outcomes = run(sender(engine), lines(200))
    assert {o.code for o in outcomes} == {""}
    assert set(engine.accepted.values()) == {1}
    assert len(engine.accepted) == 200


@pytest.mark.parametrize("status", [429, 503])
def test_put_off_batches_are_sent_again_when_the_engine_said(engine: Engine, status: int) -> None:
    def refuse_first_four(engine: Engine, request: Any, body: dict[str, Any]) -> bool:
        if engine.requests <= 4:
            request.answer(status, b'{"detail":"Later."}', Retry_After="0")
            return True
        return False

    engine.fault = refuse_first_four
    outcomes = run(sender(engine), lines(50))
    assert {o.code for o in outcomes} == {""}
    assert set(engine.accepted.values()) == {1}


def test_single_messages_put_off_are_offered_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    whole = engine.result

    def put_off_once(message: dict[str, Any]) -> dict[str, Any]:
        seen[message["to"]] += 1
        if int(message["to"]) % 5 == 0 and seen[message["to"]] == 1:
            return {"error": {"status": 503, "code": "unavailable", "detail": "Later."}}
        return whole(message)

    monkeypatch.setattr(engine, "result", put_off_once)
    outcomes = run(sender(engine), lines(30))
    assert {o.code for o in outcomes} == {""}
    assert set(engine.accepted.values()) == {1}


def test_too_large_a_batch_is_halved(engine: Engine) -> None:
    def at_most_two(engine: Engine, request: Any, body: dict[str, Any]) -> bool:
        if len(body["messages"]) > 2:
            request.answer(413, b'{"code":"body_too_large","detail":"Too large."}')
            return True
        return False

    engine.fault = at_most_two
    outcomes = run(sender(engine), lines(20))
    assert [o.line.number for o in outcomes] == list(range(1, 21))
    assert set(engine.accepted.values()) == {1}


def test_repeating_a_run_with_its_key_accepts_nothing_again(engine: Engine) -> None:
    first = sender(engine).run(lines(60))
    next(first)
    first.close()
    assert 0 < len(engine.accepted) < 60
    outcomes = run(sender(engine), lines(60))
    assert {o.code for o in outcomes} == {""}
    assert engine.accepted == Counter({f"+{n}": 1 for n in range(1, 61)})


def test_a_refused_key_ends_the_run_with_the_engines_words(engine: Engine) -> None:
    def refuse(engine: Engine, request: Any, body: dict[str, Any]) -> bool:
        request.answer(401, b'{"code":"invalid_key","detail":"The API key is not valid."}')
        return True

    engine.fault = refuse
    outcomes: list[Outcome] = []
    with pytest.raises(Refusal, match="The API key is not valid"):
        run(sender(engine), lines(500), outcomes)
    # What was under way, not the whole file.
    assert engine.requests <= 8
    assert {o.code for o in outcomes} == {"invalid_key"}


def test_patience_ends_and_what_was_not_answered_is_told(engine: Engine) -> None:
    def hang_up(engine: Engine, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if len(engine.accepted) < 14:
            return False
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
        return True

    engine.fault = hang_up
    outcomes: list[Outcome] = []
    with pytest.raises(Unavailable):
        run(sender(engine, in_flight=1, patience_s=0.2), lines(100), outcomes)
    assert [o.code for o in outcomes if not o.code] == [""] * 14
    assert {o.code for o in outcomes if o.code} == {NOT_ANSWERED}
    assert len(outcomes) == 21


def test_a_file_that_breaks_off_leaves_nothing_in_doubt(engine: Engine) -> None:
    def broken() -> Iterator[Line]:
        yield from lines(30)
        raise Refusal("broken", 400, "The file ends.")

    outcomes: list[Outcome] = []
    with pytest.raises(Refusal, match="The file ends"):
        run(sender(engine), broken(), outcomes)
    assert {o.code for o in outcomes} == {""}
    assert len(engine.accepted) == len(outcomes) == 28
