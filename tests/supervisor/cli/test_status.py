"""`smsengine status` shows what can be known, and says what cannot and why."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE
from threading import Thread

import pytest

from supervisor import cli

_PROCESS = {"role": "ledger", "index": 1, "name": "a.ledger.1", "pid": 77, "state": "ready", "since_us": 1}


@pytest.fixture
def answering() -> Iterator[Callable[[int, object], str]]:
    """An API that answers every GET with this status and this JSON; its URL."""
    servers = []

    def serve(status: int, answer: object) -> str:
        body = json.dumps(answer).encode()

        class Request(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        Thread(target=server.serve_forever).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def running(folder: Path, url: str, admin_url: str = "") -> list[str]:
    """A data directory whose engine says that it listens at `url`, as an option. One of an older version
    says nothing of an `admin_url`."""
    (folder / "run").mkdir()
    (folder / "key").write_text("secret")
    address = {"url": url, "admin_key_file": str(folder / "key")}
    if admin_url:
        address["admin_url"] = admin_url
    (folder / "run" / "engine.json").write_text(json.dumps(address))
    processes = {"node": "here", "supervisor_pid": 1, "processes": [_PROCESS]}
    (folder / "run" / "processes.json").write_text(json.dumps(processes))
    return ["--data-dir", str(folder)]


def test_what_a_store_does_not_answer_is_named_beside_what_is_known(
    tmp_path: Path, answering: Callable[[int, object], str], capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"node": "a", "processes": [_PROCESS], "queues": None, "ledger": {"lag_ms": 2000}}
    url = answering(200, known | {"missing": {"queues": "Redis gives no answer within 2 s."}})
    assert cli.run(["status", *running(tmp_path, url)]) == 0
    shown = capsys.readouterr().out
    assert "ledger 1" in shown
    assert "booked in PostgreSQL" in shown
    assert "Redis gives no answer within 2 s." in shown
    assert "set aside" not in shown


def test_a_disk_that_is_nearly_full_is_told_and_no_other(
    tmp_path: Path, answering: Callable[[int, object], str], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = {"place": "/data", "free_mb": 511, "total_mb": 20000, "low_below_mb": 512}
    nodes = [
        {"name": "full", "seen": "running", "disk": disk},
        {"name": "ample", "seen": "running", "disk": disk | {"free_mb": 512}},
        {"name": "old", "seen": "running"},
    ]
    assert cli.run(["status", *running(tmp_path, answering(200, {"node": "ample", "nodes": nodes}))]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "/data of node full has 511 MB free, of 20,000 MB: make room" in shown
    assert shown.count("make room") == 1


def test_a_full_disk_is_told_although_it_keeps_redis_from_telling_of_nodes(
    tmp_path: Path, answering: Callable[[int, object], str], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = {"place": "/data", "free_mb": 0, "total_mb": 20000, "low_below_mb": 512}
    why = "Redis at redis://127.0.0.1:1 cannot be reached: Connection refused."
    seen = {"node": "a", "disk": disk, "nodes": None, "missing": {"queues": why, "nodes": why, "flow": why}}
    assert cli.run(["status", *running(tmp_path, answering(200, seen))]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "/data of node a has 0 MB free, of 20,000 MB: make room" in shown
    assert "queues, nodes, flow" in shown
    assert shown.count("cannot be reached") == 1


@pytest.mark.parametrize("away", ["nobody listens", "no answer"])
def test_without_an_answer_the_processes_are_shown_as_the_supervisor_wrote_them(
    tmp_path: Path, answering: Callable[[int, object], str], away: str, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"code": "timeout", "detail": "The request was not answered within 10 seconds."}
    url = answering(503, problem) if away == "no answer" else "http://127.0.0.1:1"
    options = running(tmp_path, url)
    assert cli.run(["status", *options]) == 2
    printed = capsys.readouterr()
    assert "node here" in printed.out
    assert "ledger 1" in printed.out
    why = problem["detail"] if away == "no answer" else "nothing listens there"
    assert why in " ".join(printed.out.split())
    assert why in printed.err
    assert cli.run(["status", "--json", *options]) == 2
    assert json.loads(capsys.readouterr().out)["processes"][0]["pid"] == 77
    # The processes of this machine say nothing of another engine.
    assert cli.run(["status", "--url", "http://127.0.0.1:2", "--admin-key", "k", *options]) == 2
    assert capsys.readouterr().out == ""


_HOLD = """
import pathlib, sys
from supervisor.embedded import filelock
filelock.take(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "command", [["status"], ["queue", "pause", "normal"], ["reload"], ["log-level", "info"]]
)
def test_of_an_engine_that_has_died_or_only_starts_nothing_is_shown_but_that(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files say still that every process is ready."""
    options = running(tmp_path, "http://127.0.0.1:1")
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path / "lock")], stdin=PIPE, stdout=PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        (tmp_path / "run" / "engine.json").rename(tmp_path / "hidden")
        assert cli.run([*command, *options]) == 2
        assert f"(process {holder.pid}) starts or stops" in capsys.readouterr().err
        holder.kill()
    (tmp_path / "hidden").rename(tmp_path / "run" / "engine.json")
    assert cli.run([*command, *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "has ended without a stop" in printed.err


@pytest.mark.parametrize("variable", ["", "SMSENGINE_URL", "SMSENGINE_ADMIN_URL"])
def test_either_address_of_the_engine_here_leads_an_admin_command_to_that_of_the_admin_calls(
    tmp_path: Path, answering: Callable[[int, object], str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, admin = "http://127.0.0.1:1", answering(200, {"node": "a", "processes": [_PROCESS]})
    options = running(tmp_path, public, admin)
    for url in (public, admin):
        if variable:
            monkeypatch.setenv(variable, url)
        assert cli.run(["status", *([] if variable else ["--url", url]), *options]) == 0


def test_the_variable_for_admin_calls_counts_before_that_of_the_api(
    tmp_path: Path, answering: Callable[[int, object], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMSENGINE_ADMIN_URL", answering(200, {"node": "a", "processes": [_PROCESS]}))
    monkeypatch.setenv("SMSENGINE_URL", "http://127.0.0.1:1")
    assert cli.run(["status", "--admin-key", "k", "--data-dir", str(tmp_path)]) == 0
