"""`smsengine opt-out` with files and numbers that people wrote."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine.errors import Unavailable
from supervisor import cli
from supervisor.cli import opt_out
from supervisor.cli.client import Client
from supervisor.cli.opt_out import _in_file

ADMIN = ["--url", "http://127.0.0.1:9", "--admin-key", "k"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SMSENGINE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "bad.csv").write_text("+4915112345678\n0151\n")
    (tmp_path / "empty.csv").write_text("number\n\n")
    (tmp_path / "latin.csv").write_bytes(b"\xe9\n")


@pytest.mark.parametrize(
    "text",
    [
        "+4915112345678\n\n0049 151 12345679\n+4915112345678\n",
        "number\n+4915112345678\n+4915112345679",
        "\ufeffName;Phone Number\nB;+4915112345678\n;00 49 151 12345679\n",
        'sep=,\nto,when\n"+49 151 12345678",1\n+4915112345679,2\n',
        "+4915112345678,STOP\r\n+4915112345679,\r\n",
    ],
)
def test_numbers_are_read_as_people_and_spreadsheets_write_them(tmp_path: Path, text: str) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text(text, newline="")
    assert _in_file(file) == (["+4915112345678", "+4915112345679"], [])


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (["add", "7", "0151"], ["`NUMBER` must be"]),
        (["add", "7"], ["Missing argument"]),
        (["remove", "7", "+4915112345678"], ["nothing listens there"]),
        (["list", "7"], ["nothing listens there"]),
        (["import", "7", "none.csv"], ["none.csv"]),
        (["import", "7", "empty.csv"], ["has no phone numbers"]),
        (["import", "7", "latin.csv"], ["must be UTF-8"]),
        (["import", "7", "bad.csv"], ["line 2: the number must be", "nothing was added"]),
        (["import", "7", "bad.csv", "--skip-bad"], ["line 2:", "nothing listens there"]),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    arguments: list[str], sentences: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["opt-out", *arguments, *ADMIN]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == len(sentences)
    assert all(sentence in line for sentence, line in zip(sentences, lines, strict=True)), lines


class SecondTimeAway(BaseHTTPRequestHandler):
    """Takes one call, and says of all others that a store is away."""

    protocol_version = "HTTP/1.1"
    calls = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        SecondTimeAway.calls += 1
        is_first = SecondTimeAway.calls == 1
        body = b'{"added": 2}' if is_first else b'{"code": "unavailable", "detail": "PostgreSQL is away."}'
        self.send_response(200 if is_first else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_an_import_that_broke_off_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opt_out, "_BATCH", 2)
    monkeypatch.setattr(opt_out, "_PATIENCE_S", 0.0)
    (tmp_path / "five.csv").write_text("".join(f"+49151123456{n}\n" for n in range(70, 75)))
    with ThreadingHTTPServer(("127.0.0.1", 0), SecondTimeAway) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert cli.run(["opt-out", "import", "7", "five.csv", "--url", url, "--admin-key", "k"]) == 2
        server.shutdown()
        thread.join()
    assert capsys.readouterr().err == (
        "smsengine: PostgreSQL is away; the first 2 of 5 numbers are opted out, and the same command adds the"
        " rest.\n"
    )


@pytest.mark.parametrize("where", ["in a call", "in a pause"])
def test_an_import_that_ctrl_c_ends_says_how_far_it_is(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def add(organisation: int, numbers: Sequence[str], client: Client) -> int:
        calls.append(len(numbers))
        if len(calls) == 1:
            return 2
        raise KeyboardInterrupt if where == "in a call" else Unavailable("PostgreSQL is away.")

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(opt_out, "_BATCH", 2)
    monkeypatch.setattr(opt_out, "_add", add)
    monkeypatch.setattr(time, "sleep", interrupted)
    (tmp_path / "five.csv").write_text("".join(f"+49151123456{n}\n" for n in range(70, 75)))
    assert cli.run(["opt-out", "import", "7", "five.csv", *ADMIN]) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "smsengine: Interrupted; the first 2 of 5 numbers are opted out, and the same command adds the"
        " rest.\n"
    )


def test_a_command_that_ctrl_c_ends_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "get", interrupted)
    assert cli.run(["opt-out", "list", "7", *ADMIN]) == 130
    assert capsys.readouterr().err == "smsengine: interrupted.\n"


class BusyForLong(BaseHTTPRequestHandler):
    """Takes two numbers at most in time, and keeps one of those that it says 503 to."""

    protocol_version = "HTTP/1.1"
    known: set[str] = set()
    calls: list[int] = []

    def do_POST(self) -> None:
        numbers = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["numbers"]
        BusyForLong.calls.append(len(numbers))
        late = len(numbers) > 2
        some = set(numbers[:1] if late else numbers) - BusyForLong.known
        BusyForLong.known |= some
        body = b'{"code": "timeout", "detail": "Late."}' if late else b'{"added": %d}' % len(some)
        self.send_response(503 if late else 200)
        if late:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_an_import_into_a_busy_engine_goes_on_with_fewer_numbers_until_all_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"_BATCH": 8, "_BATCH_MIN": 2, "_PAUSE_S": 0.001}.items():
        monkeypatch.setattr(opt_out, name, value)
    numbers = [f"+49151123456{n}" for n in range(70, 81)]
    (tmp_path / "eleven.csv").write_text("\n".join(numbers))
    with ThreadingHTTPServer(("127.0.0.1", 0), BusyForLong) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        code = cli.run(["opt-out", "import", "7", "eleven.csv", "--url", url, "--admin-key", "k"])
        server.shutdown()
        thread.join()
    printed = capsys.readouterr()
    assert (code, BusyForLong.known) == (0, set(numbers)), printed
    assert BusyForLong.calls[:3] == [8, 4, 2]
    assert printed.out.startswith("11 numbers opted out; ")
    assert printed.out.endswith(" of them at least had not before\n")
