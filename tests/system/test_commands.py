"""The commands of `smsengine` against a running engine, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.config import ROLES
from tests import warm
from tests.system.carriers import in_force
from tests.system.client import Caller, eventually
from tests.system.conftest import COMMAND, ROOT, Engine, answer, environment, smsengine


def received(engine: Engine) -> int:
    """Distinct messages that the simulated provider has taken."""
    with urllib.request.urlopen(f"{engine.simulator_url}/stats", timeout=60) as reply:
        return int(json.load(reply)["distinct"])


def admin(engine: Engine, path: str) -> Any:
    """What an admin call answers: what is asked again and again needs no command."""
    status, found = Caller(engine.admin_url, engine.admin_key).call("GET", f"/v1/admin/{path}")
    assert status == 200, found
    return found


def quiet(engine: Engine) -> None:
    """Wait until the provider has what the tests before have sent: what it receives is counted next."""

    def is_quiet() -> bool:
        return not any(q["waiting"] + q["in_hand"] for q in admin(engine, "status")["queues"].values())

    eventually(is_quiet)


def new_organisation(engine: Engine, units: int) -> dict[str, Any]:
    made = answer(engine.run("org", "create", "Acme Ltd", "--json"))
    answer(engine.run("org", "topup", made["id"], units, "--reference", "first", "--json"))
    return dict(made)


def balance(engine: Engine, organisation: int) -> dict[str, int]:
    found = admin(engine, f"organisations/{organisation}/balance")
    return {name: found[name] for name in ("posted", "held", "available")}


def test_one_message_reaches_the_provider_and_is_charged(engine: Engine) -> None:
    made = new_organisation(engine, 100)
    quiet(engine)
    before = received(engine)
    sent = answer(
        engine.run("send", "--to", "+989121234567", "--text", "سلام", "--api-key", made["api_key"], "--json")
    )
    assert (sent["status"], sent["queue"], sent["segments"], sent["encoding"], sent["units"]) == (
        "accepted",
        "normal",
        1,
        "UCS-2",
        1,
    )
    eventually(lambda: received(engine) == before + 1)
    wanted = {"posted": 99, "held": 0, "available": 99}
    eventually(lambda: balance(engine, made["id"]) == wanted)
    assert answer(engine.run("org", "balance", made["id"], "--json")) == wanted


def test_the_demo_key_needs_not_be_named(engine: Engine) -> None:
    done = engine.run("send", "--to", "+989121234567", "--text", "Hello", "--queue", "express")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("accepted ")
    assert done.stdout.endswith(" (express, 1 segment GSM-7, 1 unit)\n")


@pytest.mark.parametrize("name", ["messages.jsonl", "messages.csv"])
def test_the_example_files_are_accepted_whole(engine: Engine, name: str) -> None:
    done = engine.run("send", "--file", ROOT / "examples" / name, "--json")
    summary = answer(done)
    assert summary["refused"] == summary["unknown"] == 0
    assert summary["accepted"] == (100 if name.endswith("jsonl") else 5)
    assert summary["complete"] is True


def test_a_spreadsheets_file_loses_only_its_bad_lines(engine: Engine, tmp_path: Path) -> None:
    """Written with semicolons in UTF-16, as a spreadsheet saves it where digits are Persian."""
    file = tmp_path / "spreadsheet.csv"
    rows = [
        "sep=;", "To; Text ;Send At", "\u202a+98 912 123 4567\u202c;good;", '+989121234567;"He said "hi"";',
        "+۹۸۹۱۲۱۲۳۴۵۶۷;سلام;", "4,47E+11;an amount;", "'00989121234567;good;", '+989121234567;"open;',
        "+98 ( 0 ) 912 123 4567;trunk;", '+989121234567;"of two', 'lines";', "+14155550123456;too long;",
        "+989121234567;when;9999-12-31T23:59:59-23:59",
    ]  # fmt: skip
    file.write_bytes("\r\n".join(rows).encode("utf-16"))
    refused, accepted = tmp_path / "refused.jsonl", tmp_path / "accepted.jsonl"
    done = engine.run("send", "--file", file, "--refused", refused, "--accepted", accepted)
    assert done.returncode == 1
    assert done.stdout.startswith("4 accepted, 6 refused ")
    assert done.stderr.endswith("smsengine: 6 messages were refused.\n")
    assert [json.loads(line)["line"] for line in accepted.read_text().splitlines()] == [3, 5, 7, 10]
    found = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [(line["line"], line["code"]) for line in found] == [
        (4, "not_a_message"), (6, "invalid_number"), (8, "not_a_message"), (9, "invalid_number"),
        (12, "invalid_number"), (13, "invalid_field"),
    ]  # fmt: skip
    assert "a spreadsheet has made an amount of it" in found[1]["detail"]


def test_a_file_with_bad_lines_is_told_line_by_line(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "mixed.csv"
    file.write_text(
        "to,text,queue\n"
        "+989121234567,good,normal\n"
        "0912,bad number,normal\n"
        "+989121234567,bad queue,slow\n"
        "+989121234568,good,express\n"
    )
    refused, accepted = tmp_path / "refused.jsonl", tmp_path / "accepted.jsonl"
    done = engine.run("send", "--file", file, "--refused", refused, "--accepted", accepted)
    assert done.returncode == 1
    assert done.stdout.startswith("2 accepted, 2 refused (2 segments, 2 units")
    assert done.stderr.endswith("smsengine: 2 messages were refused.\n")
    told = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [(t["line"], t["code"]) for t in told] == [(3, "invalid_number"), (4, "not_a_message")]
    ids = [json.loads(line) for line in accepted.read_text().splitlines()]
    assert [i["line"] for i in ids] == [2, 5]
    assert all(f"{t['line']} " in done.stderr for t in told)


def test_a_file_too_dear_is_refused_message_by_message(engine: Engine, tmp_path: Path) -> None:
    made = new_organisation(engine, 10)
    file = tmp_path / "many.jsonl"
    file.write_text("".join(f'{{"to":"+98912{n:07}","text":"hi"}}\n' for n in range(25)))
    summary = answer(engine.run("send", "--file", file, "--api-key", made["api_key"], "--json"), code=1)
    assert (summary["accepted"], summary["refused"]) == (10, 15)
    eventually(lambda: balance(engine, made["id"]) == {"posted": 0, "held": 0, "available": 0})


def test_a_run_repeated_with_its_key_sends_nothing_again(engine: Engine, tmp_path: Path) -> None:
    made = new_organisation(engine, 1000)
    file = tmp_path / "many.jsonl"
    file.write_text("".join(f'{{"to":"+98912{n:07}","text":"hi"}}\n' for n in range(300)))
    run = ("send", "--file", file, "--run-key", "k1", "--batch", 100, "--api-key", made["api_key"], "--json")
    for _ in range(2):
        assert answer(engine.run(*run))["accepted"] == 300
    eventually(lambda: balance(engine, made["id"])["posted"] == 700)


def test_real_texts_with_unknown_fields_and_one_recipient_for_all(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(
        '{"source":"uci","text":"Ok lar"}\n{"source":"thai","text":"รหัส 0750","queue":"express"}\n'
    )
    done = engine.run("send", "--file", file, "--to", "+66812345678")
    assert done.returncode == 0
    assert done.stdout.startswith("2 accepted, 0 refused")
    assert "fields that are no part of a message were left out: source." in done.stderr


def test_status_shows_every_role_and_queue(engine: Engine) -> None:
    status = answer(engine.run("status", "--json"))
    assert {p["role"] for p in status["processes"]} == set(ROLES)
    assert set(status["queues"]) == {"express", "normal"}
    shown = engine.run("status").stdout
    for word in ("ingest 1", "archiver 1", "express", "normal", "waiting", "in hand"):
        assert word in shown


def test_status_watched_shows_a_line_a_look_until_ctrl_c(engine: Engine) -> None:
    watch = warm.Popen(
        [*COMMAND, "status", "--watch", "--json", "--interval", "0.1", "--data-dir", str(engine.data_dir)],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert watch.stdout is not None
        for _ in range(3):
            assert "queues" in json.loads(watch.stdout.readline())
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate(timeout=30)
    finally:
        watch.kill()
    assert (watch.returncode, err) == (0, "")


def test_audit_finds_every_unit(engine: Engine) -> None:
    found = answer(engine.run("audit", "--json"))
    assert (found["verdict"], found["clean"], found["full"]) == ("clean", True, False)
    assert {check["verdict"] for check in found["checks"]} == {"clean"}
    assert "Every unit is accounted for." in engine.run("audit").stdout
    full = answer(engine.run("audit", "--full", "--timeout", 60, "--json"))
    assert (full["verdict"], full["full"]) == ("clean", True)
    assert full["journal_rows"] >= found["journal_rows"]


@pytest.mark.parametrize("timeout", ["0", "601", "soon"])
def test_an_audit_takes_between_one_and_six_hundred_seconds(engine: Engine, timeout: str) -> None:
    done = engine.run("audit", "--timeout", timeout)
    assert (done.returncode, "--timeout" in done.stderr) == (2, True)
    admin = Caller(engine.admin_url, engine.admin_key)
    status, problem = admin.call("GET", f"/v1/admin/audit?timeout={timeout}")
    assert (status, problem["field"]) == (422, "timeout")
    assert admin.call("GET", "/v1/admin/audit?full=yes")[1]["field"] == "full"


def test_check_finds_every_part_in_order(engine: Engine) -> None:
    found = answer(engine.run("check", "--json"))
    assert found["ok"] is True
    assert [c["part"] for c in found["checks"]] == [
        "postgres",
        "redis",
        "clickhouse",
        "provider simulated",
        "api",
        "admin api",
    ]


def test_organisations_are_made_listed_and_topped_up_once(engine: Engine) -> None:
    made = new_organisation(engine, 500)
    again = answer(engine.run("org", "topup", made["id"], 500, "--reference", "first", "--json"))
    assert again["balance"]["available"] == 500
    said = engine.run("org", "topup", made["id"], 500, "--reference", "first").stdout
    assert said.startswith("500 units as 'first' were added at ")
    assert said.endswith("Z, and none are now; 500 are available now\n")
    listed = [json.loads(line) for line in engine.run("org", "list", "--json").stdout.splitlines()]
    assert {"demo", "Acme Ltd"} <= {o["name"] for o in listed}
    assert made["id"] in [o["id"] for o in listed]


def test_a_new_key_works_until_it_is_revoked(engine: Engine) -> None:
    made = new_organisation(engine, 10)
    key = answer(engine.run("org", "key", made["id"], "--json"))
    send = ("send", "--to", "+989121234567", "--text", "x", "--api-key", key["api_key"], "--url", engine.url)
    assert smsengine(*send).returncode == 0
    assert engine.run("org", "key", made["id"], "--revoke", key["id"]).returncode == 0
    eventually(lambda: smsengine(*send).returncode == 2)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["send", "--to", "0912", "--text", "x"], 1, "The message was refused: "),
        (["send", "--to", "+989121234567", "--text", "x", "--api-key", "smse_1_x"], 2, "key"),
        (["org", "topup", "999999", "5", "--reference", "r"], 2, "There is no organisation with this id."),
        (["org", "balance", "999999"], 2, "There is no organisation with this id."),
        (["org", "create", " "], 2, "NAME must be"),
        (["org", "limits", "1", "--weight", "101"], 2, "--weight must be a number from 0.1 to 100, or none."),
        (
            ["org", "limits", "1", "--weight", "much"],
            2,
            "--weight must be a number from 0.1 to 100, or none.",
        ),
        (["org", "limits", "1", "--backlog-max", "1.5"], 2, "--backlog-max must be a whole number"),
        (
            ["org", "limits", "1", "--rate-max", "200/day"],
            2,
            "--rate-max must be a rate from 0.1/s to 1,000,000/s",
        ),
        (["org", "pause", "999999"], 2, "There is no organisation with this id."),
        (
            ["message", "list", "--since", "2026-11-23T00:00:00Z", "--until", "2026-11-22T00:00:00Z"],
            2,
            "--since must be before --until.",
        ),
        (["status", "--admin-key", "smsa_wrong"], 2, "key"),
        (["audit", "--admin-key", "smsa_wrong"], 2, "key"),
    ],
)
def test_refusals_are_one_sentence(engine: Engine, arguments: list[str], code: int, sentence: str) -> None:
    done = engine.run(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("smsengine: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_tables_of_a_running_engine_are_of_this_version(engine: Engine) -> None:
    assert smsengine("migrate", "--data-dir", engine.data_dir).returncode == 0


def test_a_key_of_the_data_directory_is_not_sent_to_another_engine(engine: Engine) -> None:
    done = engine.run("send", "--to", "+989121234567", "--text", "x", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "An API key is needed" in done.stderr


def test_a_queue_says_who_has_a_backlog(engine: Engine) -> None:
    empty = {
        "queue": "normal", "messages": 0, "paused": 0, "segments_in_10_s": 0, "organisations": [],
        "due": 0, "put_off": 0, "pause": None, "drain": None, "missing": {},
    }  # fmt: skip
    # The tests before have sent something.
    eventually(lambda: answer(engine.run("queue", "show", "normal", "--json")) == empty)
    assert "No organisation has a backlog in express." in engine.run("queue", "show", "express").stdout
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    caller = Caller(engine.url, engine.api_key)
    later = {"to": "+989121234567", "text": "later", "queue": "express", "send_at": soon}
    accepted, made = caller.call("POST", "/v1/messages", later)
    assert accepted == 202
    assert "1 message in no backlog, not due yet." in engine.run("queue", "show", "express").stdout
    assert caller.call("POST", f"/v1/messages/{made['id']}/cancel")[0] == 200
    wrong = engine.run("queue", "show", "other")
    assert wrong.returncode == 2
    assert "express" in wrong.stderr


def waiting(engine: Engine, organisation: int) -> int:
    """Messages that an organisation has in the backlog of the normal queue."""
    found = admin(engine, "queues/normal")["organisations"]
    return sum(o["messages"] for o in found if o["organisation_id"] == organisation)


def test_what_is_paused_waits_up_to_its_limit_and_goes_on(engine: Engine) -> None:
    made = new_organisation(engine, 5000)
    organisation = made["id"]
    limits = ("--weight", "2", "--backlog-max", "1,000", "--rate-max", "60000/min")
    assert engine.run("org", "limits", organisation, *limits).stdout.splitlines() == [
        "weight       2", "backlog max  1,000 messages", "rate max     1,000 messages a second"
    ]  # fmt: skip
    assert (
        answer(engine.run("org", "limits", organisation, "--rate-max", "none", "--json"))["rate_max"] is None
    )
    quiet(engine)
    try:
        paused = engine.run("org", "pause", organisation, "--reason", "asked by phone")
        assert paused.stdout.startswith(f"{organisation} Acme Ltd: paused since ")
        assert "asked by phone" in engine.run("org", "show", organisation).stdout
        caller = Caller(engine.url, made["api_key"])

        def sent(count: int) -> int:
            messages = [{"to": "+989121234567", "text": "x"}] * count
            return caller.call("POST", "/v1/messages/batch", {"messages": messages})[0]

        # One that comes before the pause is in force is sent; the next ones wait.
        eventually(lambda: sent(1) == 202 and waiting(engine, organisation) > 0)
        # What is held is what waits: nothing is on its way to the provider.
        eventually(lambda: balance(engine, organisation)["held"] == waiting(engine, organisation))
        before = received(engine)
        assert sent(600) == 202
        eventually(lambda: sent(600) == 429)
        assert int(caller.headers["Retry-After"]) > 0
        assert caller.headers["RateLimit-Policy"] == '"backlog_max";q=1000'
        found = answer(engine.run("status", "--json"))
        assert [o["reason"] for o in found["paused_organisations"]] == ["asked by phone"]
        assert found["queues"]["normal"]["paused"] == waiting(engine, organisation) > 600
        assert "paused" in engine.run("queue", "show", "normal").stdout
        assert received(engine) == before
    finally:
        engine.run("org", "resume", organisation)
    eventually(lambda: balance(engine, organisation)["held"] == 0)
    eventually(lambda: waiting(engine, organisation) == 0)
    eventually(lambda: sent(600) == 202)
    eventually(lambda: balance(engine, organisation)["held"] == 0)


def test_a_paused_queue_sends_nothing_until_it_is_resumed(engine: Engine) -> None:
    made = new_organisation(engine, 5000)
    caller = Caller(engine.url, made["api_key"])
    quiet(engine)
    try:
        paused = engine.run("queue", "pause", "normal", "--reason", "a wrong text")
        assert paused.stdout.startswith("the queue normal is paused since ")
        in_force(engine)
        before = received(engine)
        messages = [{"to": "+989121234567", "text": "x"}] * 100
        assert caller.call("POST", "/v1/messages/batch", {"messages": messages})[0] == 202
        urgent = {"to": "+989121234567", "text": "x", "queue": "express"}
        assert caller.call("POST", "/v1/messages", urgent)[0] == 202
        eventually(lambda: received(engine) == before + 1)
        eventually(lambda: balance(engine, made["id"])["held"] == 100)
        assert answer(engine.run("queue", "show", "normal", "--json"))["pause"]["reason"] == "a wrong text"
        assert "the queue normal is paused" in engine.run("status").stdout
    finally:
        engine.run("queue", "resume", "normal")
    eventually(lambda: balance(engine, made["id"])["held"] == 0)
    assert received(engine) == before + 101


def test_running_processes_log_from_another_level_on_and_the_next_one_as_configured(engine: Engine) -> None:
    try:
        changed = answer(engine.run("log-level", "warning", "--role", "express", "--json"))["processes"]
        assert {(p["role"], p["was"], p["level"]) for p in changed} == {("express", "info", "warning")}
        assert "express 1  debug, was warning" in engine.run("log-level", "debug").stdout
        levels = {p["role"]: p["log_level"] for p in answer(engine.run("status", "--json"))["processes"]}
        assert set(levels.values()) == {"debug"}
        pid = next(
            p["pid"] for p in answer(engine.run("status", "--json"))["processes"] if p["role"] == "normal"
        )
        os.kill(pid, signal.SIGKILL)

        def as_configured() -> bool:
            now = admin(engine, "status")["processes"]
            return [p["log_level"] for p in now if p["role"] == "normal" and p["pid"] != pid] == ["info"]

        eventually(as_configured)
    finally:
        engine.run("log-level", "info")
    for wrong in (["loud"], ["info", "--role", "nobody"]):
        refused = engine.run("log-level", *wrong)
        assert refused.returncode == 2
        assert "must be one of" in refused.stderr

    def recorded() -> bool:
        lines = engine.run("changes", "--key", "signal", "--json").stdout.splitlines()
        found = [json.loads(line) for line in reversed(lines)]
        assert {one["path"] for one in found} <= {f"/nodes/{one['address']}" for one in found[:1]}
        differ = [(one["before"], one["after"]) for one in found]
        return differ[:1] == [({"express": "info"}, {"express": "warning"})] and len(found) >= 3

    eventually(recorded)


def test_a_plan_is_made_of_what_the_engine_has_recorded(engine: Engine) -> None:
    for _ in range(3):
        engine.run("send", "--to", "+989121234567", "--text", "Hello", "--queue", "express")
    planned = []

    def recorded() -> bool:
        """Once the archiver has stored an answer of the provider."""
        target = ("--target", "express p99 <= 5s")
        done = engine.run("plan", "--from-activity", "1d", *target, "--json")
        planned.append(done)
        return done.returncode == 0

    eventually(recorded)
    found = json.loads(planned[-1].stdout)
    assert found["meets"]
    assert found["queues"][0]["queue"] == "express"
    assert any("busiest minute of express" in warning for warning in found["warnings"])


HOSTILE = "\x1b]0;x\x07\x9b2J\u202e[/red][link=file:///]"
VISIBLE = r"\x1b]0;x\x07\x9b2J\u202e[/red][link=file:///]"


def test_what_somebody_else_wrote_does_nothing_to_the_terminal_and_json_has_it_to_the_letter(
    engine: Engine,
) -> None:
    caller, admin = Caller(engine.url, engine.api_key), Caller(engine.admin_url, engine.admin_key)
    draft = {"to": "+989121234567", "text": HOSTILE, "reference": HOSTILE}
    status, taken = caller.call("POST", "/v1/messages", draft)
    assert status == 202, taken
    # A name and a reason have no control characters.
    status, made = admin.call("POST", "/v1/admin/organisations", {"name": "\u202e[/red]"})
    assert status == 201, made
    pause = f"/v1/admin/organisations/{made['id']}/pause"
    assert admin.call("POST", pause, {"reason": "\u202e[/red]"})[0] == 200
    listed = ("message", "list", "--reference", HOSTILE)
    eventually(lambda: len(engine.run(*listed, "--json").stdout.splitlines()) == 1)
    assert answer(engine.run(*listed, "--json"))["reference"] == HOSTILE
    name = r"\u202e[/red]"
    for command, seen in ((listed, VISIBLE), (("org", "list"), name), (("status",), name)):
        shown = engine.run(*command)
        assert shown.returncode == 0, shown.stderr
        assert seen in shown.stdout, command
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown.stdout), command
    assert admin.call("POST", pause.replace("pause", "resume"), {})[0] == 200
