"""Sending a file: no message is lost or sent twice, whatever the connection does.

The engine on the other side is a small one that can be told to fail in the ways networks do.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Refusal, Unavailable
from engine.records import MessageDraft
from supervisor import cli
from supervisor.cli import sending
from supervisor.cli.client import Client
from supervisor.cli.message_file import Line
from supervisor.cli.sending import NOT_A_MESSAGE, NOT_ANSWERED, Sender, SendOutcome
from tests.supervisor.cli.small_engine import Engine


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
    monkeypatch.setattr(sending, "PAUSE_S", 0.01)


def lines(count: int) -> list[Line]:
    return [Line(number=n, draft=MessageDraft(to=f"+{n}", text="a")) for n in range(1, count + 1)]


def sender(engine: Engine, **options: Any) -> Sender:
    return Sender(connect=lambda: Client(engine.url, "k", 5.0), run_key="run", **({"batch": 7} | options))


def run(sender: Sender, given: Iterable[Line], into: list[SendOutcome] | None = None) -> list[SendOutcome]:
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


def test_a_message_that_is_too_large_by_itself_is_refused_alone(engine: Engine) -> None:
    def without_the_fifth(engine: Engine, request: Any, body: dict[str, Any]) -> bool:
        if any(message["to"] == "+5" for message in body["messages"]):
            request.answer(413, b'{"code":"body_too_large","detail":"Too large."}')
            return True
        return False

    engine.fault = without_the_fifth
    refused = {o.line.number: (o.code, o.detail) for o in run(sender(engine), lines(20)) if o.code}
    assert refused == {5: ("body_too_large", "Too large.")}
    assert engine.accepted == Counter({f"+{n}": 1 for n in range(1, 21) if n != 5})


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
    outcomes: list[SendOutcome] = []
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
    outcomes: list[SendOutcome] = []
    with pytest.raises(Unavailable):
        run(sender(engine, in_flight=1, patience_s=0.2), lines(100), outcomes)
    assert [o.code for o in outcomes if not o.code] == [""] * 14
    assert {o.code for o in outcomes if o.code} == {NOT_ANSWERED}
    assert len(outcomes) == 21


def test_a_file_that_breaks_off_leaves_nothing_in_doubt(engine: Engine) -> None:
    def broken() -> Iterator[Line]:
        yield from lines(30)
        raise Refusal("broken", 400, "The file ends.")

    outcomes: list[SendOutcome] = []
    with pytest.raises(Refusal, match="The file ends"):
        run(sender(engine), broken(), outcomes)
    assert {o.code for o in outcomes} == {""}
    # Whole batches; those that had not begun when the file broke off are not sent.
    assert len(engine.accepted) == len(outcomes) <= 28


def test_ctrl_c_ends_in_good_order_and_says_how_to_go_on(engine: Engine, tmp_path: Path) -> None:
    held_up, go_on = threading.Event(), threading.Event()

    def hold_up(engine: Engine, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if engine.requests > 3:
            held_up.set()
            assert go_on.wait(30)
        return False

    engine.fault = hold_up
    file = tmp_path / "many.jsonl"
    file.write_text("".join(f'{{"to":"+{n}","text":"a"}}\n' for n in range(1, 2001)))
    argv = [sys.executable, "-m", "supervisor.cli", "send", "--file", str(file), "--batch", "10"]
    argv += ["--url", engine.url, "--api-key", "k"]
    root, streams = Path(sending.__file__).parents[1], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(argv, cwd=root, env=os.environ | {"COLUMNS": "200"}, text=True, **streams)
    try:
        assert held_up.wait(30)
        process.send_signal(signal.SIGINT)
        go_on.set()
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    accepted = len(engine.accepted)
    assert 30 <= accepted < 2000
    assert out.startswith(f"{accepted} accepted, 0 refused")
    (key,) = re.findall(
        r"Interrupted; nothing after line \d+ was sent; the same command with --run-key (\w+) and --batch 10",
        err,
    )
    again = subprocess.run([*argv, "--run-key", key], cwd=root, capture_output=True, text=True, check=True)
    assert again.stdout.startswith("2,000 accepted, 0 refused")
    assert engine.accepted == Counter({f"+{n}": 1 for n in range(1, 2001)})


def test_a_run_that_sent_nothing_has_no_key_to_go_on_with(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "headless.csv"
    file.write_text("+989121234567,Hello\n")
    assert cli.run(["send", "--file", str(file), "--url", engine.url, "--api-key", "k"]) == 2
    printed = capsys.readouterr().err
    assert printed.endswith("smart_encoding); nothing was sent.\n")
    assert engine.accepted == Counter()
