"""Carriers as an operator connects them: SMPP and HTTP, receipts, failover, limits, changes at run time."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.system.agreement import Kinds
from tests.system.carriers import (
    TIMEOUT_S,
    Carriers,
    Traffic,
    all_sent,
    audited,
    carriers,
    in_force,
    message_of,
    nothing_waits,
    seconds_until,
)
from tests.system.client import Caller, behave, eventually, fetch
from tests.system.conftest import answer

NUMBER = "+989121234567"
# Lines with counters, and a counter of each that a delivered message moves.
LINES = {
    "provider traffic provider=a": "receipts",
    "receipts stored": "kept",
    "archived": "rows",
    "receipts matched": "matched",
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carriers]:
    with carriers(tmp_path_factory.mktemp("carriers")) as pair:
        yield pair


@pytest.fixture
def customer(pair: Carriers) -> Iterator[Caller]:
    yield Caller(pair.engine.url, pair.engine.api_key)
    for simulator in (pair.a, pair.b):
        behave(
            simulator.url,
            outage=False,
            latency={"constant_ms": 0},
            throughput=None,
            receipts=None,
            error_rates={"temporary": 0, "permanent": 0, "timeout": 0, "reset": 0},
        )


def send(caller: Caller, text: str, **fields: Any) -> str:
    status, accepted = caller.call("POST", "/v1/messages", {"to": NUMBER, "text": text, **fields})
    assert status == 202, accepted
    return str(accepted["id"])


def status_of(pair: Carriers, message_id: str, wanted: str) -> Any:
    return eventually(lambda: (m := message_of(pair.engine, message_id))["status"] == wanted and m)


@pytest.mark.parametrize("form", ["same", "hex", "leading_zeros", "upper"])
def test_a_message_goes_by_smpp_and_its_receipt_makes_it_delivered(
    pair: Carriers, customer: Caller, form: str
) -> None:
    behave(pair.a.url, receipts={"delay": {"constant_ms": 100}, "id_form": form})
    message = status_of(pair, send(customer, f"hello {form}"), "delivered")
    assert message["provider"] == "a"
    assert message["charge"] == "captured"
    assert sorted(e["event"] for e in message["events"]) == ["accepted", "delivered", "sent"]


def test_receipts_that_come_before_the_answer_or_twice_count_once(pair: Carriers, customer: Caller) -> None:
    behave(pair.a.url, receipts={"before_response": 1, "duplicate": 1}, latency={"constant_ms": 200})
    ids = [send(customer, f"early {n}") for n in range(5)]
    for message_id in ids:
        status_of(pair, message_id, "delivered")
    # The repetitions have been taken and have changed nothing.
    eventually(lambda: fetch(f"{pair.a.url}/stats?detail=1")["receipts"]["pending"] == 0)
    for message_id in ids:
        events = [e["event"] for e in message_of(pair.engine, message_id)["events"]]
        assert sorted(events) == ["accepted", "delivered", "sent"]


def test_a_long_message_is_delivered_when_each_of_its_segments_is(pair: Carriers, customer: Caller) -> None:
    behave(pair.a.url, receipts={"delay": {"constant_ms": 50}})
    message = status_of(pair, send(customer, "long " * 80), "delivered")
    assert message["segments"] == 3
    events = [e["event"] for e in message["events"]]
    assert events.count("delivered") == 1
    (sent,) = [e for e in message["events"] if e["event"] == "sent"]
    assert len(sent["provider_message_id"].split(",")) == 3


def test_a_receipt_that_it_was_not_delivered_moves_no_money(pair: Carriers, customer: Caller) -> None:
    behave(pair.a.url, receipts={"undelivered": 1})
    message = status_of(pair, send(customer, "gone"), "undelivered")
    assert message["charge"] == "captured"
    # By its own time it may stand before the `sent` of its message.
    (told,) = [e for e in message["events"] if e["event"] == "undelivered"]
    assert told["code"].startswith("UNDELIV")


def test_receipts_come_back_over_http_too(pair: Carriers, customer: Caller) -> None:
    behave(pair.a.url, outage=True)
    message_id = send(customer, "by http")
    sent = eventually(lambda: (m := message_of(pair.engine, message_id))["status"] == "sent" and m)
    assert sent["provider"] == "b"
    (taken,) = [e for e in sent["events"] if e["event"] == "sent"]
    receipt = {"id": taken["provider_message_id"], "status": "delivered", "to": NUMBER}
    stranger = Caller(pair.engine.url, "")
    assert stranger.call("POST", "/v1/providers/b/receipts/wrong-token", receipt)[0] == 404
    place = "/v1/providers/b/receipts/token-of-the-test"
    assert stranger.call("POST", place, receipt)[0] == 200
    status_of(pair, message_id, "delivered")
    # And as the carrier itself pushes them.
    behave(pair.b.url, receipts={"url": pair.engine.url + place, "id_form": "upper"})
    status_of(pair, send(customer, "pushed"), "delivered")


def test_reports_balance_exports_and_histories_agree_to_the_unit_on_messages_of_every_kind(
    pair: Carriers, customer: Caller
) -> None:
    kinds = Kinds(pair.engine)
    for carrier in (pair.a, pair.b):
        behave(carrier.url, error_rates={"temporary": 1})
    kinds.send(6, validity=1)
    kinds.wait(lambda m: m["status"] == "expired")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    of_tomorrow = kinds.send(8, send_at=tomorrow)
    for canceled in of_tomorrow[:4]:
        kinds.cancel(canceled)
    rates = {"permanent": 0.25, "temporary": 0.25}
    behave(pair.a.url, receipts={"undelivered": 0.3}, error_rates=rates)
    behave(pair.b.url, error_rates={"permanent": 0.5, "temporary": 0})
    kinds.send(64)
    scheduled = {"scheduled", "canceled", "expired", "failed", "delivered", "undelivered"}
    # What `b` took has no receipt.
    kinds.wait(lambda m: m["status"] in scheduled or (m["status"], m["provider"]) == ("sent", "b"))
    assert {m["status"] for m in kinds.messages} == {*scheduled, "sent"}
    assert kinds.refused == {"opted_out": 3, "invalid_number": 3}
    assert {m["segments"] for m in kinds.messages} >= {1, 2, 10}
    assert max(m["attempts"] for m in kinds.messages) > 1
    kinds.agree()
    printed = pair.engine.run("report", "--by", "organisation", "--json").stdout
    of_all = {r["organisation"]: r["messages"] for r in json.loads(printed)["rows"]}
    assert of_all[kinds.id] == len(kinds.messages) == 78
    audited(pair.engine)
    # Those who come after wait until nothing is due any more.
    for left in of_tomorrow[4:]:
        kinds.cancel(left)


def test_a_paused_provider_gets_nothing_until_it_is_resumed(pair: Carriers, customer: Caller) -> None:
    before = fetch(f"{pair.a.url}/stats")["received"]
    answer(pair.engine.run("provider", "pause", "a", "--json"))
    in_force(pair.engine)
    message = all_sent(pair.engine, [send(customer, "round about")])[0]
    assert (message["provider"], fetch(f"{pair.a.url}/stats")["received"]) == ("b", before)
    answer(pair.engine.run("provider", "resume", "a", "--json"))
    eventually(lambda: all_sent(pair.engine, [send(customer, "again")])[0]["provider"] == "a")


def test_a_throughput_set_while_it_runs_is_kept_and_used(pair: Carriers, customer: Caller) -> None:
    answer(pair.engine.run("provider", "pause", "b", "--json"))
    answer(pair.engine.run("provider", "throughput", "a", "40", "--json"))
    in_force(pair.engine)
    # Its counts begin here: the tests before had no throughput.
    assert Caller(pair.a.url, "").call("POST", "/reset")[0] == 200
    try:
        messages = [{"to": NUMBER, "text": f"paced {n}"} for n in range(200)]
        status, _ = customer.call("POST", "/v1/messages/batch", {"messages": messages})
        assert status == 202
        nothing_waits(pair.engine)
        segments = fetch(f"{pair.a.url}/stats?detail=1")["segments"]
        # By when they arrived, on a machine that does other things too.
        assert segments["second_max"] <= 44, segments
        seconds = [n for n in segments["per_second"].values() if n]
        # Used too: in the best second at least nine tenths of it were sent.
        assert 36 <= max(seconds[-6:]) <= 44, seconds
    finally:
        answer(pair.engine.run("provider", "throughput", "a", "configured", "--json"))
        answer(pair.engine.run("provider", "resume", "b", "--json"))
        in_force(pair.engine)


def test_express_keeps_its_time_while_the_preferred_carrier_hangs(pair: Carriers) -> None:
    traffic = Traffic(pair.engine, per_s=20.0)
    with traffic.flowing():
        eventually(lambda: len(traffic.accepted) >= 40)
        behave(pair.a.url, outage="hang")
        eventually(lambda: len(traffic.accepted) >= 160)
        behave(pair.a.url, outage=False)
        eventually(lambda: len(traffic.accepted) >= 200)
    messages = all_sent(pair.engine, traffic.accepted)
    ids, _ = pair.received()
    assert set(traffic.accepted) <= ids
    waited = [seconds_until("sent", m) for m in messages]
    assert all(w is not None for w in waited)
    # Those that were in flight when it began to hang wait for its time-out; nobody else does.
    quick = [w for w in waited if w is not None and w < TIMEOUT_S]
    assert len(quick) >= 0.8 * len(waited)
    audited(pair.engine)


def test_what_its_processes_counted_is_in_the_log_when_it_drains_and_hashed_numbers_meet_their_receipts(
    tmp_path: Path,
) -> None:
    with carriers(tmp_path, more="""[activity]\nnumbers = "hashed"\ntexts_days = 30\n""") as pair:
        behave(pair.a.url, receipts={"delay": {"constant_ms": 50}})
        caller = Caller(pair.engine.url, pair.engine.api_key)
        message_id = send(caller, "counted")
        status_of(pair, message_id, "delivered")
        [listed] = eventually(
            lambda: [
                m
                for m in caller.call("GET", f"/v1/messages?to=%2B{NUMBER[1:]}")[1]["messages"]
                if m["status"] == "delivered"
            ]
        )
        assert (listed["id"], listed["to"][:5]) == (message_id, "#9800")
        # Texts are recorded, for their organisation alone.
        path = f"/messages/{message_id}"
        operator = Caller(pair.engine.admin_url, pair.engine.admin_key)
        organisation = "/v1/admin/organisations/1"
        assert caller.call("GET", f"/v1{path}")[1]["text"] == "counted"
        assert operator.call("GET", f"{organisation}{path}")[1]["text"] is None
        export = "/reports/messages?format=jsonl&from_time=2020-01-01T00:00:00Z"
        assert caller.call("GET", f"/v1{export}")[1]["text"] == "counted"
        assert "text" not in operator.call("GET", f"{organisation}{export}")[1]
        assert pair.engine.stop() == 0
        log = pair.engine.log.read_text()
        key = (tmp_path / "data/secrets/numbers_key").read_text().strip()
        assert NUMBER[1:] not in log
        assert key not in log
    counted = {
        event: sum(map(int, re.findall(rf"info    {event} (?:.* )?{name}=(\d+)", log)))
        for event, name in LINES.items()
    }
    assert counted == {
        "provider traffic provider=a": 1, "receipts stored": 1, "archived": 3, "receipts matched": 1,
    }  # fmt: skip


def test_what_recipients_write_comes_over_smpp_and_http_to_its_organisation(pair: Carriers) -> None:
    made = answer(pair.engine.run("org", "create", "Inbound", "--json"))
    answer(pair.engine.run("inbound-route", "add", "12345", made["id"], "--json"))
    answer(pair.engine.run("inbound-route", "add", "777", made["id"], "--keyword", "pizza", "--json"))
    url = f"{pair.engine.url}/v1/providers/b/inbound/token-of-the-test"
    long_text = "Grüße aus Köln 😀 " * 12
    for written in (
        {"from": "+4915112345678", "to": "12345", "text": long_text},
        {"from": "+4915112345679", "to": "777", "text": "Pizza please", "url": url},
        {"from": "+4915112345670", "to": "12345", "text": "STOP"},
    ):
        request = urllib.request.Request(f"{pair.a.url}/inbound", json.dumps(written).encode(), method="POST")
        assert fetch(request)["parts"] == (4 if written["text"] == long_text else 1)
    caller = Caller(pair.engine.url, made["api_key"])

    def listed() -> list[tuple[str, str, str, str]]:
        messages = caller.call("GET", "/v1/inbound-messages")[1]["inbound_messages"]
        return sorted((m["from"], m["text"], m["keyword"], m["action"]) for m in messages)

    wanted = [
        ("+4915112345670", "STOP", "", "stop"),
        ("+4915112345678", long_text, "", ""),
        ("+4915112345679", "Pizza please", "PIZZA", ""),
    ]
    eventually(lambda: listed() == wanted)
    assert caller.call("GET", "/v1/opt-outs/+4915112345670")[1]["source"] == "inbound"
    pair.engine.run("inbound", "write", "--from", "+4915112345670", "--to", "12345", "--text", "start")
    eventually(lambda: caller.call("GET", "/v1/opt-outs/+4915112345670")[0] == 404)
    assert "please" in pair.engine.run("inbound", "list", made["id"]).stdout
