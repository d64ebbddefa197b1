"""`smsengine route` and `smsengine provider`: what they print and do, and what they cannot carry out."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from supervisor import cli

NOWHERE = ["--url", "http://127.0.0.1:9", "--admin-key", "k"]
FILES = {
    "no.toml": "[[routes]\n",
    "other.toml": "[prices]\n'' = 1\n",
    "wrong.toml": "[[routes]]\nprefix = 98\nproviders = ['a']\n",
    "unknown.toml": "[[routes]]\nvia = ['a']\n",
    "good.toml": "node = 'n'\n[[routes]]\nprefix = '+98'\nproviders = ['a', 'b']\nweights = [7, 3]\n",
    "none.toml": "routes = []\n",
    "config.toml": "[[providers]]\nname = 'a'\nurl = 'http://127.0.0.1:9'\n[[routes]]\nproviders = ['b']\n",
}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SMSENGINE_")]:
        monkeypatch.delenv(name)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)


class Engine:
    """As much of the admin API as the commands need: keeps routes, refuses a stale version."""

    def __init__(self) -> None:
        self.routes: list[dict[str, Any]] = []
        self.version = 4
        self.provider = {
            "name": "a/b",
            "type": "http",
            "paused": False,
            "pause": None,
            "throughput": {"configured": None, "in_force": 2.5},
        }
        self.calls: list[tuple[str, str, Any]] = []
        # The body of the last POST.
        self.posted: Any = None
        engine = self

        class Request(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                engine.calls.append(("GET", self.path, None))
                providers = {"version": 1, "providers": [engine.provider]}
                self.answer(200, providers if self.path.endswith("/providers") else engine.shown())

            def do_PUT(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                engine.calls.append(("PUT", self.path, body))
                if not self.path.endswith("/routes"):
                    self.answer(200, engine.provider)
                elif body["version"] != engine.version:
                    self.answer(409, {"code": "version_conflict", "detail": "Changed meanwhile."})
                else:
                    engine.routes, engine.version = body["routes"], engine.version + 1
                    self.answer(200, engine.shown())

            def do_POST(self) -> None:
                engine.calls.append(("POST", self.path, self.headers["Idempotency-Key"]))
                engine.posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                paused = self.path.endswith("pause")
                pause = {"since": "2026-11-28T10:56:37Z", **engine.posted} if paused else None
                self.answer(200, {**engine.provider, "paused": paused, "pause": pause})

            def answer(self, status: int, fact: object) -> None:
                body = json.dumps(fact).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self.to = ["--url", f"http://127.0.0.1:{self.server.server_port}", "--admin-key", "k"]

    def shown(self) -> dict[str, Any]:
        return {"version": self.version, "routes": self.routes}

    def run(self, *arguments: str) -> int:
        return cli.run([*arguments, *self.to])

    def ways(self) -> dict[tuple[str, str, str], tuple[list[str], list[int]]]:
        return {(r["prefix"], r["sender"], r["queue"]): (r["providers"], r["weights"]) for r in self.routes}


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    serving = threading.Thread(target=engine.server.serve_forever)
    serving.start()
    yield engine
    engine.server.shutdown()
    engine.server.server_close()
    serving.join()


def test_a_route_is_set_in_place_of_the_one_there_was(engine: Engine) -> None:
    assert engine.run("route", "set", "all", "a", "b") == 0
    assert engine.run("route", "set", "+98", "a=7", "b=3") == 0
    assert engine.run("route", "set", "+98", "c", "--sender", "Acme", "--queue", "express", "--reroute") == 0
    assert engine.run("route", "set", "+98", "b") == 0
    assert engine.ways() == {
        ("", "", ""): (["a", "b"], []),
        ("+98", "Acme", "express"): (["c"], []),
        ("+98", "", ""): (["b"], []),
    }
    assert [r["reroute"] for r in engine.routes] == [False, True, False]
    assert engine.version == 8


def test_a_route_is_removed_by_what_it_names_and_no_other(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.run("route", "set", "+98", "a")
    engine.run("route", "set", "+98", "b", "--sender", "Acme")
    assert engine.run("route", "remove", "+98", "--sender", "Acme") == 0
    assert engine.ways() == {("+98", "", ""): (["a"], [])}
    capsys.readouterr()
    assert engine.run("route", "remove", "+98", "--queue", "normal") == 2
    assert capsys.readouterr().err == (
        "smsengine: There is no route of prefix +98 for queue normal; see `smsengine route list`.\n"
    )
    assert engine.run("route", "remove", "+98") == 0
    assert engine.routes == []


def test_a_file_replaces_all_routes(engine: Engine) -> None:
    engine.run("route", "set", "all", "a")
    assert engine.run("route", "import", "good.toml") == 0
    assert engine.ways() == {("+98", "", ""): (["a", "b"], [7, 3])}
    assert engine.run("route", "import", "none.toml") == 0
    assert engine.routes == []


def test_routes_are_printed_for_people_and_for_scripts(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine.run("route", "list") == 0
    assert capsys.readouterr().out.startswith("There are no routes: every provider carries everything")
    engine.run("route", "set", "+98", "a=7", "b=3", "--queue", "express")
    engine.run("route", "set", "all", "b", "a")
    capsys.readouterr()
    assert engine.run("route", "list") == 0
    table = capsys.readouterr().out
    assert "a 70 %, b 30 %" in table
    assert "b, then a" in table
    assert "all others" in table
    assert engine.run("route", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == engine.shown()


def test_a_change_made_by_somebody_else_meanwhile_is_not_overwritten(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = engine.shown

    def changed_meanwhile() -> dict[str, Any]:
        before = shown()
        engine.version += 1
        return before

    engine.shown = changed_meanwhile  # type: ignore[method-assign]
    assert engine.run("route", "set", "all", "a") == 2
    assert capsys.readouterr().err == "smsengine: Changed meanwhile.\n"
    assert engine.routes == []


def test_providers_are_listed_paused_resumed_and_slowed_down(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine.run("provider", "list") == 0
    assert {"a/b", "http", "2.5", "unlimited"} <= set(capsys.readouterr().out.split())
    assert engine.run("provider", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"version": 1, "providers": [engine.provider]}
    for verb in ("pause", "resume"):
        assert engine.run("provider", verb, "a/b", "--json") == 0
        assert json.loads(capsys.readouterr().out)["paused"] is (verb == "pause")
    for rate, sent in (("50", 50.0), ("0.5", 0.5), ("configured", None)):
        assert engine.run("provider", "throughput", "a/b", rate) == 0
        assert engine.calls[-1] == ("PUT", "/v1/admin/providers/a%2Fb", {"throughput": sent})
    posts = [(path, key) for method, path, key in engine.calls if method == "POST"]
    assert [path for path, _ in posts] == [
        "/v1/admin/providers/a%2Fb/pause",
        "/v1/admin/providers/a%2Fb/resume",
    ]
    assert len({key for _, key in posts}) == 2


def test_a_provider_is_paused_for_a_reason_that_is_shown(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine.run("provider", "pause", "a/b", "--reason", "no receipts") == 0
    assert engine.posted == {"reason": "no receipts"}
    assert "\na/b is paused since 2026-11-28 10:56 (no receipts)\n" in capsys.readouterr().out
    # An engine of an older version knows of no reason.
    assert engine.run("provider", "pause", "a/b") == 0
    assert engine.posted == {}
    assert "\na/b is paused since 2026-11-28 10:56\n" in capsys.readouterr().out
    engine.provider = {name: value for name, value in engine.provider.items() if name != "pause"}
    engine.provider["paused"] = True
    assert engine.run("provider", "list") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines() if "paused" in line] == [
        ["a/b", "http", "paused", "2.5", "unlimited"]
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["route", "set"], "Missing argument 'PREFIX'"),
        (["route", "set", "+98"], "Missing argument 'PROVIDER[=SHARE]'"),
        (["route", "set", "+98", "a=x"], "'a=x' must be PROVIDER or PROVIDER=SHARE with a whole number"),
        (["route", "set", "+98", "a=-1"], "'a=-1' must be PROVIDER or PROVIDER=SHARE"),
        (["route", "set", "+98", "a="], "'a=' must be PROVIDER or PROVIDER=SHARE"),
        (["route", "set", "+98", "=1"], "'=1' must be PROVIDER or PROVIDER=SHARE"),
        (
            ["route", "set", "+98", "a=1", "b"],
            "Either each provider has a share, as in acme=7, or none has.",
        ),
        (["route", "set", "+98", "a", "--queue", "slow"], "--queue must be one of express, normal."),
        (["route", "set", "+98", "a"], "nothing listens there"),
        (["route", "remove"], "Missing argument 'PREFIX'"),
        (["route", "import", "gone.toml"], "The routes gone.toml cannot be read: No such file or directory."),
        (["route", "import", "no.toml"], "no.toml is not TOML"),
        (["route", "import", "other.toml"], "other.toml must have sections [[routes]], each with providers"),
        (["route", "import", "wrong.toml"], "wrong.toml must have sections [[routes]]"),
        (["route", "import", "unknown.toml"], "unknown.toml must have sections [[routes]]"),
        (["route", "import", "good.toml"], "nothing listens there"),
        (["route", "list"], "nothing listens there"),
        (["provider", "list"], "nothing listens there"),
        (["provider", "pause"], "Missing argument 'NAME'"),
        (["provider", "resume", "a"], "nothing listens there"),
        (["provider", "throughput", "a"], "Missing argument 'RATE'"),
        (["provider", "throughput", "a", "fast"], "RATE must be a number from 0.01 to 1,000,000"),
        (["provider", "throughput", "a", "5e-324"], "RATE must be a number from 0.01 to 1,000,000"),
        (["provider", "throughput", "a", "nan"], "RATE must be a number from 0.01 to 1,000,000"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*arguments, *NOWHERE]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err
    assert printed.err.count("\n") == 1


def test_a_configuration_whose_routes_are_wrong_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["up", "--config", "config.toml"]) == 2
    assert capsys.readouterr().err == (
        "smsengine: config.toml: routes.0.providers must be names of configured providers (a).\n"
    )


@pytest.mark.parametrize(
    "command",
    ["route", "route list", "route set", "route remove", "route import",
     "provider", "provider list", "provider pause", "provider resume", "provider throughput"],
)  # fmt: skip
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*command.split(), "--help"]) == 0
    assert f"smsengine {command}" in capsys.readouterr().out
