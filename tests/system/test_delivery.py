"""What a user does, from the HTTP request to the provider and the history."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.system.client import Caller, behave, eventually, fetch
from tests.system.conftest import Engine
from tests.system.faults import assert_clean

NORMAL = {"error_rates": {"temporary": 0, "permanent": 0, "timeout": 0, "reset": 0}, "outage": False}


@pytest.fixture
def customer(engine: Engine) -> Iterator[Caller]:
    """A new organisation with 1,000 units, and a provider that behaves."""
    admin = Caller(engine.admin_url, engine.admin_key)
    status, made = admin.call("POST", "/v1/admin/organisations", {"name": "customer"})
    assert status == 201
    top_up = {"units": 1000, "reference": "r1"}
    assert admin.call("POST", f"/v1/admin/organisations/{made['id']}/top-ups", top_up)[0] == 201
    assert admin.call("POST", f"/v1/admin/organisations/{made['id']}/top-ups", top_up)[0] == 200
    yield Caller(engine.url, made["api_key"])
    behave(engine.simulator_url, **NORMAL)


def sms(**fields: Any) -> dict[str, Any]:
    return {"to": "+989121234567", "text": "Your code is 123456", **fields}


def view(customer: Caller, message_id: str) -> dict[str, Any]:
    status, found = customer.call("GET", f"/v1/messages/{message_id}")
    assert status == 200, found
    assert isinstance(found, dict)
    return found


def balance(customer: Caller) -> tuple[int, int, int]:
    status, b = customer.call("GET", "/v1/balance")
    assert status == 200
    return b["posted"], b["held"], b["available"]


def received(engine: Engine) -> set[str]:
    return set(fetch(f"{engine.simulator_url}/received?limit=1000000")["ids"])


def test_a_message_is_accepted_sent_recorded_and_charged(engine: Engine, customer: Caller) -> None:
    status, accepted = customer.call("POST", "/v1/messages", sms(queue="express", reference="login"))
    assert status == 202
    assert {k: accepted[k] for k in ("status", "queue", "segments", "encoding", "units")} == {
        "status": "accepted", "queue": "express", "segments": 1, "encoding": "GSM-7", "units": 1,
    }  # fmt: skip
    # Right after the 202 it is known.
    assert view(customer, accepted["id"])["events"][0]["event"] == "accepted"
    sent = eventually(lambda: (v := view(customer, accepted["id"]))["status"] == "sent" and v)
    assert (sent["charge"], sent["reference"], sent["provider"]) == ("captured", "login", "simulated")
    assert [e["event"] for e in sent["events"]] == ["accepted", "sent"]
    assert accepted["id"] in received(engine)
    eventually(lambda: balance(customer) == (999, 0, 999))


def test_segments_and_encoding_decide_the_price(customer: Caller) -> None:
    texts = {
        "x" * 160: (1, "GSM-7"),
        "x" * 161: (2, "GSM-7"),
        "€" * 80: (1, "GSM-7"),
        "سلام" * 18: (2, "UCS-2"),
    }
    body = {"messages": [sms(text=text) for text in texts]}
    status, answer = customer.call("POST", "/v1/messages/batch", body)
    assert status == 202
    assert [(r["segments"], r["encoding"]) for r in answer["results"]] == list(texts.values())
    assert [r["units"] for r in answer["results"]] == [1, 2, 1, 2]
    eventually(lambda: balance(customer) == (994, 0, 994))


def test_an_estimate_says_what_a_message_comes_to(engine: Engine, customer: Caller) -> None:
    text = "It\u2019s here \u2013 " + "x" * 90
    status, found = customer.call("POST", "/v1/messages/estimate", sms(text=text))
    assert (status, found["accepted"], found["encoding"], found["units"]) == (200, True, "UCS-2", 2)
    assert found["forced_by"]["at"] == 2
    status, accepted = customer.call("POST", "/v1/messages", sms(text=text, smart_encoding=True))
    assert (status, accepted["encoding"], accepted["units"], accepted["replaced"]) == (202, "GSM-7", 1, 2)
    _, found = customer.call("POST", "/v1/messages/estimate", sms(text="x" * 2000))
    assert (found["accepted"], found["problem"]["field"], found["segments"]) == (False, "text", 14)
    asked = ("--to", "+989121234567", "--text", text, "--api-key", customer.key)
    shown = engine.run("message", "estimate", *asked)
    assert shown.returncode == 0, shown.stderr
    assert "UCS-2 because of U+2019 RIGHT SINGLE QUOTATION MARK, after 2 characters" in shown.stdout
    eventually(lambda: balance(customer) == (999, 0, 999))


def test_messages_of_a_batch_are_accepted_or_refused_each_on_its_own(customer: Caller) -> None:
    body = {"messages": [sms(), sms(to="12"), sms(text=""), {"to": "+989121234567"}, sms()]}
    status, answer = customer.call("POST", "/v1/messages/batch", body)
    assert status == 202
    assert ["id" in r for r in answer["results"]] == [True, False, False, False, True]
    assert all(r["error"]["status"] == 422 for r in answer["results"] if "error" in r)


def test_402_comes_when_the_credit_is_spent_and_not_before(customer: Caller) -> None:
    body = {"messages": [sms()] * 1000}
    status, answer = customer.call("POST", "/v1/messages/batch", body)
    assert status == 202
    assert all("id" in r for r in answer["results"])
    status, problem = customer.call("POST", "/v1/messages", sms())
    assert (status, problem["code"]) == (402, "insufficient_credit")
    assert problem["status"] == 402
    eventually(lambda: balance(customer) == (0, 0, 0))


def test_a_temporary_failure_is_tried_again_and_charged_once(engine: Engine, customer: Caller) -> None:
    behave(engine.simulator_url, outage=True)
    _, accepted = customer.call("POST", "/v1/messages", sms(queue="express"))
    retrying = eventually(
        lambda: (v := view(customer, accepted["id"]))["events"][-1]["event"] == "retrying" and v
    )
    assert (retrying["status"], retrying["charge"]) == ("accepted", "held")
    behave(engine.simulator_url, outage=False)
    sent = eventually(lambda: (v := view(customer, accepted["id"]))["status"] == "sent" and v)
    assert sent["attempts"] >= 2
    eventually(lambda: balance(customer) == (999, 0, 999))


def test_a_permanent_failure_gives_the_units_back(engine: Engine, customer: Caller) -> None:
    behave(engine.simulator_url, error_rates={"permanent": 1})
    _, accepted = customer.call("POST", "/v1/messages", sms())
    failed = eventually(lambda: (v := view(customer, accepted["id"]))["status"] == "failed" and v)
    assert failed["charge"] == "released"
    eventually(lambda: balance(customer) == (1000, 0, 1000))


def test_a_message_whose_validity_ends_is_not_sent_and_not_charged(engine: Engine, customer: Caller) -> None:
    behave(engine.simulator_url, outage=True)
    _, accepted = customer.call("POST", "/v1/messages", sms(queue="express", validity=2))
    expired = eventually(lambda: (v := view(customer, accepted["id"]))["status"] == "expired" and v)
    behave(engine.simulator_url, outage=False)
    assert expired["charge"] == "released"
    assert accepted["id"] not in received(engine)
    eventually(lambda: balance(customer) == (1000, 0, 1000))


def test_a_scheduled_message_waits_for_its_time(engine: Engine, customer: Caller) -> None:
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    _, accepted = customer.call("POST", "/v1/messages", sms(send_at=at.isoformat()))
    assert accepted["status"] == "scheduled"
    assert accepted["id"] not in received(engine)
    sent = eventually(lambda: (v := view(customer, accepted["id"]))["status"] == "sent" and v)
    assert sent["events"][-1]["at"] >= at.isoformat(timespec="milliseconds").replace("+00:00", "")


def test_a_scheduled_message_is_canceled_and_its_units_are_free_at_once(
    engine: Engine, customer: Caller
) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=20)
    _, accepted = customer.call("POST", "/v1/messages", sms(send_at=later.isoformat()))
    eventually(lambda: balance(customer) == (1000, 1, 999))
    path = f"/v1/messages/{accepted['id']}/cancel"
    for _ in range(2):
        status, canceled = customer.call("POST", path)
        assert (status, canceled.get("detail", canceled)) == (
            200, {"id": accepted["id"], "status": "canceled", "charge": "released", "units": 1},
        )  # fmt: skip
    assert [e["event"] for e in view(customer, accepted["id"])["events"]] == ["scheduled", "canceled"]
    eventually(lambda: balance(customer) == (1000, 0, 1000))
    # To others it is as if there were none.
    stranger = Caller(engine.url, engine.api_key)
    assert stranger.call("POST", path)[0] == 404


def test_a_batch_is_all_or_nothing_tells_how_far_it_is_and_is_canceled(
    engine: Engine, customer: Caller
) -> None:
    later = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=34)).isoformat()
    messages = [sms(send_at=later, reference="spring") for _ in range(20)] + [sms(queue="express")]
    body = {"messages": [*messages, sms(to="nobody")], "atomic": True}
    status, problem = customer.call("POST", "/v1/messages/batch", body)
    assert (status, problem["field"]) == (422, "messages[21].to")
    assert balance(customer) == (1000, 0, 1000)
    status, answer = customer.call("POST", "/v1/messages/batch", {"messages": messages, "atomic": True})
    assert (status, len(answer["results"])) == (202, 21)
    path = f"/v1/batches/{answer['batch']}"
    _, progress = customer.call("GET", path)
    assert (progress["messages"], progress["statuses"]["scheduled"], progress["over"]) == (21, 20, False)
    eventually(lambda: customer.call("GET", path)[1]["statuses"].get("sent"))
    status, canceled = customer.call("POST", f"{path}/cancel")
    assert (status, canceled["canceled"], canceled["units"]) == (200, 20, 20)
    assert canceled["not_canceled"] == {"already_sent": 1}
    assert customer.call("GET", path)[1]["over"] is True
    eventually(lambda: balance(customer) == (999, 0, 999))
    # To others it is as if there were none.
    stranger = Caller(engine.url, engine.api_key)
    assert [stranger.call(*call)[0] for call in (("GET", path), ("POST", f"{path}/cancel"))] == [404, 404]
    ids = [r["id"] for r in answer["results"]]

    def listed(**filters: str) -> list[str]:
        _, page = customer.call("GET", f"/v1/messages?{urlencode(filters)}")
        return [m["id"] for m in page["messages"]]

    eventually(lambda: listed(batch=answer["batch"], status="canceled") == ids[19::-1])
    assert listed(reference="spring", limit="3") == ids[19:16:-1]
    assert listed(queue="express") == [ids[20]]
    shown = engine.run("message", "list", "--reference", "spring", "--json", "--api-key", customer.key)
    assert len(shown.stdout.splitlines()) == 20


def test_a_campaign_of_several_requests_is_canceled_as_a_whole_and_shown_at_one_address(
    engine: Engine, customer: Caller
) -> None:
    later = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)).isoformat()
    for queue in ("normal", "express"):
        some = [sms(queue=queue, send_at=later, reference=f"spring/{n}") for n in range(20)]
        assert customer.call("POST", "/v1/messages/batch", {"messages": some})[0] == 202
    _, other = customer.call("POST", "/v1/messages", sms(send_at=later, reference="springtime"))
    report = "/v1/reports/summary?campaign=spring&group_by=status"

    def statuses() -> dict[str, int]:
        return {row["status"]: row["messages"] for row in customer.call("GET", report)[1]["rows"]}

    status, canceled = customer.call("POST", "/v1/messages/cancel", {"campaign": "spring/1"})
    assert (status, canceled["canceled"], canceled["next"]) == (200, 2, None)
    shown = engine.run("message", "cancel", "--campaign", "spring", "--api-key", customer.key)
    assert shown.stdout == "38 canceled, 38 units released\n"
    eventually(lambda: statuses() == {"canceled": 40})
    assert view(customer, other["id"])["status"] == "scheduled"
    # It is nobody else's.
    status, canceled = Caller(engine.url, engine.api_key).call(
        "POST", "/v1/messages/cancel", {"campaign": "springtime"}
    )
    assert (status, canceled["canceled"]) == (200, 0)
    assert customer.call("POST", "/v1/messages/cancel", {"campaign": "springtime"})[1]["canceled"] == 1
    for body, field in (({}, "campaign"), ({"campaign": "a", "cursor": "b"}, "cursor")):
        status, problem = customer.call("POST", "/v1/messages/cancel", body)
        assert (status, problem["field"]) == (422, field)


def test_what_was_sent_cannot_be_canceled(engine: Engine, customer: Caller) -> None:
    _, accepted = customer.call("POST", "/v1/messages", sms())
    eventually(lambda: view(customer, accepted["id"])["status"] == "sent")
    status, problem = customer.call("POST", f"/v1/messages/{accepted['id']}/cancel")
    assert (status, problem["code"]) == (409, "already_sent")
    shown = engine.run("message", "show", accepted["id"], "--api-key", customer.key)
    assert shown.returncode == 0
    assert "sent" in shown.stdout
    refused = engine.run("message", "cancel", accepted["id"], "--api-key", customer.key)
    assert (refused.returncode, refused.stdout.split(":")[0]) == (1, f"not canceled {accepted['id']}")


def test_a_repeated_request_with_its_key_is_sent_once(engine: Engine, customer: Caller) -> None:
    headers = {"Idempotency-Key": "order-77"}
    first = customer.call("POST", "/v1/messages", sms(), **headers)
    assert customer.call("POST", "/v1/messages", sms(), **headers) == first
    status, problem = customer.call("POST", "/v1/messages", sms(text="other"), **headers)
    assert (status, problem["code"]) == (409, "idempotency_key_reused")
    eventually(lambda: balance(customer) == (999, 0, 999))


def test_one_organisation_cannot_see_anothers_messages(engine: Engine, customer: Caller) -> None:
    _, accepted = customer.call("POST", "/v1/messages", sms())
    other = Caller(engine.url, engine.api_key)
    assert other.call("GET", f"/v1/messages/{accepted['id']}")[0] == 404


def test_the_books_are_clean_after_all_that(engine: Engine) -> None:
    assert_clean(engine)
