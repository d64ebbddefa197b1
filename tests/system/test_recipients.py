"""Who is sent to, and what becomes of it, on the whole engine: opt-outs, senders, test numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, answer

TO = "+4915112345678"


@pytest.fixture(scope="module")
def made(engine: Engine) -> dict[str, Any]:
    made = answer(engine.run("org", "create", "Recipients", "--json"))
    answer(engine.run("org", "topup", made["id"], 1000, "--reference", "first", "--json"))
    return dict(made)


def code_of(caller: Caller, **draft: str) -> Any:
    status, reply = caller.call("POST", "/v1/messages", {"text": "hello", **draft})
    return reply["code"] if status != 202 else None


def test_an_opt_out_from_a_file_is_in_force_within_a_second_and_is_taken_back(
    engine: Engine, made: dict[str, Any], tmp_path: Path
) -> None:
    caller, file = Caller(engine.url, made["api_key"]), tmp_path / "opt-outs.csv"
    file.write_text(f"name;phone\nA;{TO}\nB;0049 151 12345679\n")
    assert code_of(caller, to=TO) is None
    added = answer(engine.run("opt-out", "import", made["id"], file, "--json"))
    assert added == {"added": 2, "bad_lines": 0, "numbers": 2}
    eventually(lambda: code_of(caller, to=TO) == "opted_out")
    assert len(engine.run("opt-out", "list", made["id"], "--json").stdout.splitlines()) == 2
    status, batch = caller.call(
        "POST",
        "/v1/messages/batch",
        {"messages": [{"to": to, "text": "hi"} for to in (TO, "+4915112345670")]},
    )
    assert (status, batch["results"][0]["error"]["field"]) == (202, "messages[0].to")
    assert batch["results"][1]["status"] == "accepted"
    assert answer(engine.run("opt-out", "remove", made["id"], TO, "--json")) == {"removed": 1}
    eventually(lambda: code_of(caller, to=TO) is None)


def test_a_number_in_digits_of_another_script_is_the_same_number_everywhere(
    engine: Engine, made: dict[str, Any]
) -> None:
    caller = Caller(engine.url, made["api_key"])
    number = "+989121234561"
    persian, arabic = (
        number.translate({ord(str(n)): zero + n for n in range(10)}) for zero in (0x06F0, 0x0660)
    )
    ids = []
    for to in (persian, arabic):
        status, taken = caller.call("POST", "/v1/messages", {"to": to, "text": "x"})
        assert status == 202, taken
        ids.append(taken["id"])
    drafts = [{"to": persian, "text": "x"}]
    ids.append(caller.call("POST", "/v1/messages/batch", {"messages": drafts})[1]["results"][0]["id"])
    sent = answer(engine.run("send", "--to", arabic, "--text", "x", "--api-key", made["api_key"], "--json"))
    ids.append(sent["id"])
    for to in (number, persian, arabic):
        found = eventually(
            lambda to=to: (
                len(page := caller.call("GET", f"/v1/messages?{urlencode({'to': to})}")[1]["messages"]) == 4
                and page
            )
        )
        assert {m["id"] for m in found} == {*ids}
        assert {m["to"] for m in found} == {number}
    opt_outs = f"/v1/admin/organisations/{made['id']}/opt-outs"
    admin = Caller(engine.admin_url, engine.admin_key)
    assert admin.call("POST", opt_outs, {"numbers": [persian, number]})[1] == {"added": 1}
    eventually(lambda: code_of(caller, to=arabic) == "opted_out")
    assert answer(engine.run("opt-out", "remove", made["id"], arabic, "--json")) == {"removed": 1}


def test_senders_and_destinations_are_kept_to(engine: Engine, made: dict[str, Any]) -> None:
    caller = Caller(engine.url, made["api_key"])
    options = ("--allow", "ACME", "--allow", "12345", "--destination", "+49", "--default", "12345")
    answer(engine.run("org", "senders", made["id"], *options, "--json"))
    wrong = {"to": TO, "from": "OTHER"}
    eventually(lambda: code_of(caller, **wrong) == "sender_not_allowed")
    assert code_of(caller, to="+447700112233") == "destination_not_allowed"
    assert code_of(caller, to=TO, **{"from": "ACME"}) is None
    status, sent = caller.call("POST", "/v1/messages", {"to": TO, "text": "hello"})
    shown = eventually(lambda: caller.call("GET", f"/v1/messages/{sent['id']}")[1])
    assert (status, shown["from"]) == (202, "12345")
    answer(engine.run("destination", "set", "+4915=short", "--json"))
    eventually(lambda: code_of(caller, to=TO, **{"from": "ACME"}) == "sender_not_allowed")
    assert answer(engine.run("destination", "set", "+4915=any", "--json"))["rules"] == {}
    back = ("--allow", "any", "--destination", "any", "--default", "none")
    answer(engine.run("org", "senders", made["id"], *back, "--json"))
    eventually(lambda: code_of(caller, **wrong) is None)


def test_test_numbers_have_their_outcomes_and_reach_no_provider(engine: Engine, made: dict[str, Any]) -> None:
    caller = Caller(engine.url, made["api_key"])
    outcomes = {"01": "delivered", "02": "undelivered", "03": "failed", "04": "undelivered"}
    messages = [{"to": f"+4477009009{last}", "text": "hello", "queue": "express"} for last in outcomes]
    _, batch = caller.call("POST", "/v1/messages/batch", {"messages": messages})

    def statuses() -> list[str]:
        return [caller.call("GET", f"/v1/messages/{one['id']}")[1]["status"] for one in batch["results"]]

    eventually(lambda: statuses() == list(outcomes.values()))
    _, shown = caller.call("GET", f"/v1/messages/{batch['results'][3]['id']}")
    assert [(e["event"], e["code"]) for e in shown["events"]] == [
        ("accepted", ""),
        ("sent", "test"),
        ("undelivered", "EXPIRED test"),
    ]
    _, failed = caller.call("GET", f"/v1/messages/{batch['results'][2]['id']}")
    assert failed["charge"] == "released"


def test_a_stop_is_confirmed_by_a_message_of_the_organisation_once(
    engine: Engine, made: dict[str, Any]
) -> None:
    caller, writer, number = Caller(engine.url, made["api_key"]), "+4915112340001", "4915112340000"
    admin = Caller(engine.admin_url, engine.admin_key)
    for route in ("54321", number):
        body = {"number": route, "organisation_id": made["id"]}
        assert admin.call("PUT", "/v1/admin/inbound-routes", body)[0] == 200
    answer(engine.run("auto-reply", "set", made["id"], "stop", "You get no more messages.", "--json"))
    status, reply = caller.call(
        "PUT", "/v1/auto-replies", {"action": "help", "text": "سلام 😀", "language": "fa"}
    )
    assert (status, reply["text"]) == (200, "سلام 😀")
    assert len(answer(engine.run("auto-reply", "list", made["id"], "--json"))["auto_replies"]) == 2
    # Two of our own numbers that write to each other, one that asks in Persian, one that stops twice.
    for sender, to, text in (
        (f"+{number}", "54321", "STOP"), (writer, number, "راهنما"), (writer, "54321", "stop"),
        (writer, "54321", "STOP"),
    ):  # fmt: skip
        written = {"from": sender, "to": to, "text": text}
        assert admin.call("POST", "/v1/admin/inbound-messages", written)[0] == 202

    def inbound() -> list[dict[str, Any]]:
        found = caller.call("GET", "/v1/inbound-messages")[1]["inbound_messages"]
        return [one for one in found if one["action"]]

    eventually(lambda: len(inbound()) == 4)

    def sent() -> dict[tuple[str, str], str]:
        page = caller.call("GET", f"/v1/messages?to=%2B{writer[1:]}")[1]["messages"]
        return {(one["from"], one["reference"]): one["status"] for one in page}

    eventually(lambda: len(sent()) == 2 and set(sent().values()) <= {"sent", "delivered"})
    assert {sender for sender, _ in sent()} == {"54321", f"+{number}"}
    assert {reference for _, reference in sent()} <= {one["id"] for one in inbound()}
    assert caller.call("GET", f"/v1/messages?to=%2B{number}")[1]["messages"] == []
    assert code_of(caller, to=writer) == "opted_out"
