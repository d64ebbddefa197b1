"""POST /v1/messages, POST /v1/messages/batch and GET /v1/messages/{id}."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from engine.errors import Refusal, Unavailable
from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from tests.api.world import DRAFT, Api, DeskIngest, services_with, serving

PROBLEM = "application/problem+json"


async def test_a_message_is_accepted_with_its_price(api: Api) -> None:
    status, headers, reply = await api.ask("POST", "/v1/messages", DRAFT)
    assert status == 202
    assert headers["Content-Type"] == "application/json"
    assert reply == {
        "id": reply["id"],
        "status": "accepted",
        "queue": "express",
        "segments": 1,
        "encoding": "GSM-7",
        "units": 1,
    }


async def test_every_field_of_a_message_may_be_given(api: Api) -> None:
    draft = DRAFT | {
        "from": "Acme",
        "queue": "normal",
        "validity": 60,
        "send_at": "2030-01-31T09:00:00Z",
        "reference": "order 7",
    }
    status, _, reply = await api.ask("POST", "/v1/messages", draft)
    assert (status, reply["queue"]) == (202, "normal")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "invalid_json", None),
        (b"{", 400, "invalid_json", None),
        (b"to=1", 400, "invalid_json", None),
        (b'{"to":"\xff","text":"x"}', 400, "invalid_json", None),
        (b'{"to":"\\ud800","text":"x"}', 422, "invalid_text", "to"),
        (b'{"to":"+1","text":"\\ud83d"}', 422, "invalid_text", "text"),
        (b'{"to":"+1","text":"x \\ude00 y"}', 422, "invalid_text", "text"),
        (b'{"to":"+1","text":"x","reference":"\\ud83d","validity":1e400}', 422, "invalid_text", "reference"),
        (b'{"to":"+1","text":"x","a\\ud83d":1}', 422, "invalid_text", "a?"),
        (b'{"to":"+1","text":"\\ud83d","validity":NaN}', 400, "invalid_json", None),
        (b'{"x":' + b"[" * 100_000, 422, "invalid_field", "x"),
        (b"[" * 100_000, 422, "invalid_field", None),
        (b"[]", 422, "invalid_field", None),
        (b"null", 422, "invalid_field", None),
        (b'{"text":"x"}', 422, "invalid_field", "to"),
        (b'{"to":"+1"}', 422, "invalid_field", "text"),
        (b'{"to":1,"text":"x"}', 422, "invalid_field", "to"),
        (b'{"to":"+1","text":null}', 422, "invalid_field", "text"),
        (b'{"to":"+1","text":"x","from":5}', 422, "invalid_field", "from"),
        (b'{"to":"+1","text":"x","queue":"fast"}', 422, "invalid_field", "queue"),
        (b'{"to":"+1","text":"x","validity":1.5}', 422, "invalid_field", "validity"),
        (b'{"to":"+1","text":"x","validity":' + b"9" * 5000 + b"}", 422, "invalid_field", "validity"),
        (b'{"to":"+1","text":"x","send_at":7}', 422, "invalid_field", "send_at"),
        (b'{"to":"+1","text":"x","reference":{}}', 422, "invalid_field", "reference"),
        (b'{"to":"+1","text":"x","sender":"Acme"}', 422, "invalid_field", "sender"),
        (b'{"to":"1","text":"x"}', 422, "invalid_field", "to"),
        (b'{"to":"+1","text":"too dear"}', 402, "insufficient_credit", None),
    ],
)
async def test_a_bad_message_is_refused_with_the_field_and_what_is_allowed(
    api: Api, body: bytes, status: int, code: str, field: str | None
) -> None:
    reply_status, headers, reply = await api.ask("POST", "/v1/messages", body)
    assert (reply_status, reply["code"], reply.get("field")) == (status, code, field)
    assert headers["Content-Type"] == PROBLEM
    assert reply["type"] == f"urn:smsengine:problem:{code}"
    assert reply["status"] == status
    assert reply["detail"].endswith(".")
    assert reply["title"]
    assert reply["request_id"] == headers["X-Request-Id"]


async def test_the_detail_says_what_is_allowed(api: Api) -> None:
    _, _, reply = await api.ask("POST", "/v1/messages", DRAFT | {"queue": "fast"})
    assert reply["detail"] == '`queue` must be "express" or "normal".'
    _, _, reply = await api.ask("POST", "/v1/messages", DRAFT | {"sender": "Acme"})
    assert reply["detail"].startswith(
        "`sender` is no field of a message; its fields are `to`, `text`, `from`,"
    )
    _, _, reply = await api.ask("POST", "/v1/messages", {"text": "x"})
    assert reply["detail"].startswith("`to` is missing; it must be a phone number in E.164")


async def test_a_batch_is_answered_in_order(api: Api) -> None:
    status, _, reply = await api.ask("POST", "/v1/messages/batch", {"messages": [DRAFT] * 1000})
    assert status == 202
    ids = [result["id"] for result in reply["results"]]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)


async def test_a_bad_message_of_a_batch_refuses_only_itself(api: Api) -> None:
    messages: list[Any] = [
        DRAFT,
        DRAFT | {"to": 7},
        DRAFT | {"to": "7"},
        None,
        DRAFT | {"text": "too dear"},
        DRAFT,
    ]
    status, headers, reply = await api.ask("POST", "/v1/messages/batch", {"messages": messages})
    assert status == 202
    assert headers["Content-Type"] == "application/json"
    first, wrong_type, refused, no_message, too_dear, last = reply["results"]
    assert first["status"] == last["status"] == "accepted"
    assert wrong_type["error"] == {
        "type": "urn:smsengine:problem:invalid_field",
        "title": "Invalid field",
        "status": 422,
        "code": "invalid_field",
        "detail": '`to` must be a phone number in E.164 as a string, such as "+14155550123".',
        "field": "messages[1].to",
    }
    assert refused["error"]["field"] == "messages[2].to"
    assert no_message["error"]["field"] == "messages[3]"
    assert (too_dear["error"]["status"], too_dear["error"]["code"]) == (402, "insufficient_credit")


async def test_half_a_character_in_place_of_a_message_refuses_only_itself(api: Api) -> None:
    good = msgspec.json.encode(DRAFT)
    body = b'{"messages": [%b, "\\ud83d", ["\\ud83d"], %b]}' % (good, good)
    status, _, reply = await api.ask("POST", "/v1/messages/batch", body)
    assert status == 202
    assert ["id" in result for result in reply["results"]] == [True, False, False, True]
    assert [result["error"]["field"] for result in reply["results"][1:3]] == ["messages[1]", "messages[2]"]


async def test_half_a_character_in_a_batch_refuses_only_its_message(api: Api) -> None:
    texts = [b'"whole"', b'"half \\ud83d"', b'"whole \\ud83d\\ude00"', b'"\\\\ud83d"', b"5", b"1e400"]
    messages = b",".join(b'{"to":"+1","text":%s}' % text for text in texts)
    status, _, reply = await api.ask("POST", "/v1/messages/batch", b'{"messages":[%s]}' % messages)
    assert status == 202
    refused = [result.get("error", {}) for result in reply["results"]]
    assert [problem.get("field") for problem in refused] == [
        None, "messages[1].text", None, None, "messages[4].text", "messages[5].text",
    ]  # fmt: skip
    assert refused[1]["code"] == "invalid_text"
    assert refused[1]["detail"] == "`text` contains half of a surrogate pair; send every character whole."


async def test_a_queue_of_null_is_as_one_that_is_absent(api: Api) -> None:
    status, _, reply = await api.ask("POST", "/v1/messages", DRAFT | {"queue": None})
    assert (status, reply["queue"]) == (202, "normal")


@pytest.mark.parametrize("bad", [[], [{}]])
async def test_an_atomic_of_null_is_as_one_that_is_absent(api: Api, bad: list[object]) -> None:
    status, _, reply = await api.ask(
        "POST", "/v1/messages/batch", {"messages": [DRAFT, *bad], "atomic": None}
    )
    assert (status, len(reply["results"])) == (202, 1 + len(bad))


async def test_a_batch_of_bad_messages_is_answered_too(api: Api) -> None:
    status, _, reply = await api.ask("POST", "/v1/messages/batch", {"messages": [{}, 1, "x"]})
    assert status == 202
    assert [r["error"]["field"] for r in reply["results"]] == ["messages[0].to", "messages[1]", "messages[2]"]


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "invalid_json", None),
        (b'{"messages":[{"to":1},]}', 400, "invalid_json", None),
        (b'{"messages":[{"to":1},{"to":"\xff"}]}', 400, "invalid_json", None),
        (b'{"messages":[' + b"[" * 100_000, 400, "invalid_json", None),
        (b"[]", 422, "invalid_field", None),
        (b"{}", 422, "invalid_field", "messages"),
        (b'{"messages":{}}', 422, "invalid_field", "messages"),
        (b'{"messages":[]}', 422, "invalid_field", "messages"),
        (b'{"messages":[],"more":1}', 422, "invalid_field", "more"),
        (b'{"messages":[],"more":"\\ud83d"}', 422, "invalid_field", "more"),
        (b'{"messages":"\\ud83d"}', 422, "invalid_text", "messages"),
        (b'["\\ud83d"]', 422, "invalid_field", None),
        (b'{"messages":[' + b",".join([b'"\\ud83d"'] * 1001) + b"]}", 413, "batch_too_large", "messages"),
        (b'{"messages":[' + b",".join([b"1"] * 1001) + b"]}", 413, "batch_too_large", "messages"),
        (msgspec.json.encode({"messages": [DRAFT] * 1001}), 413, "batch_too_large", "messages"),
    ],
)
async def test_what_is_no_batch_is_refused_whole(
    api: Api, body: bytes, status: int, code: str, field: str | None
) -> None:
    reply_status, _, reply = await api.ask("POST", "/v1/messages/batch", body)
    assert (reply_status, reply["code"], reply.get("field")) == (status, code, field)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/batch"])
async def test_a_repeated_request_is_answered_as_the_first_time(api: Api, path: str) -> None:
    assert isinstance(api.ingest, DeskIngest)
    body = DRAFT if path == "/v1/messages" else {"messages": [DRAFT, DRAFT]}
    key = f"order 17 of {path}"
    first = await api.ask("POST", path, body, Idempotency_Key=key)
    accepted = len(api.ingest.accepted)
    second = await api.ask("POST", path, body, Idempotency_Key=key)
    assert (first[0], first[2]) == (second[0], second[2])
    assert len(api.ingest.accepted) == accepted
    assert "Idempotent-Replayed" not in first[1]
    assert second[1]["Idempotent-Replayed"] == "true"


async def test_a_key_used_for_another_request_is_refused(api: Api) -> None:
    await api.ask("POST", "/v1/messages", DRAFT, Idempotency_Key="k1")
    status, _, reply = await api.ask("POST", "/v1/messages", DRAFT | {"text": "y"}, Idempotency_Key="k1")
    assert (status, reply["code"], reply["field"]) == (409, "idempotency_key_reused", "Idempotency-Key")
    status, _, reply = await api.ask(
        "POST", "/v1/messages/batch", {"messages": [DRAFT]}, Idempotency_Key="k1"
    )
    assert status == 409


@pytest.mark.parametrize("key", ["", "x" * 201, "caf\u00e9", "tab\there"])
async def test_an_idempotency_key_is_short_and_printable(api: Api, key: str) -> None:
    status, _, reply = await api.ask("POST", "/v1/messages", DRAFT, Idempotency_Key=key)
    assert (status, reply["code"], reply["field"]) == (400, "invalid_idempotency_key", "Idempotency-Key")


async def test_two_idempotency_keys_are_not_chosen_between(api: Api) -> None:
    reply = await api.raw(_with_keys(api, "k-a", "k-b"))
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"invalid_idempotency_key" in reply
    # A proxy that repeats the header says nothing else by it.
    assert (await api.raw(_with_keys(api, "k-a", "k-a"))).startswith(b"HTTP/1.1 202 ")


def _with_keys(api: Api, *keys: str) -> bytes:
    body = json.dumps(DRAFT)
    lines = [f"Idempotency-Key: {key}" for key in keys]
    head = ["POST /v1/messages HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, f"Authorization: Bearer {api.api_key}", *lines, "", body]).encode()


async def test_the_longest_idempotency_key_is_taken(api: Api) -> None:
    status, _, _ = await api.ask("POST", "/v1/messages", DRAFT, Idempotency_Key="~" * 200)
    assert status == 202


async def test_a_message_is_shown_to_its_organisation_only(api: Api, directory: Directory) -> None:
    _, _, accepted = await api.ask("POST", "/v1/messages", DRAFT)
    path = f"/v1/messages/{accepted['id']}"
    status, _, reply = await api.ask("GET", path.upper().replace("/V1/MESSAGES", "/v1/messages"))
    assert (status, reply) == (200, {"id": accepted["id"], "status": "accepted"})
    other = await directory.create_organisation("Other")
    status, _, reply = await api.ask("GET", path, key=other.api_key)
    assert (status, reply["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "message_id", ["7", "0190a0b0-0000-7000-8000-999999999999", "x" * 36, "%00", "..%2f.."]
)
async def test_what_is_no_message_of_the_organisation_is_not_found(api: Api, message_id: str) -> None:
    status, _, reply = await api.ask("GET", f"/v1/messages/{message_id}")
    assert (status, reply["code"]) == (404, "not_found")


async def test_a_part_that_is_away_is_told_with_the_time_to_wait(
    directory: Directory, acme: NewOrganisation
) -> None:
    ingest = DeskIngest()
    async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
        for after, reply_after in ((0.2, "1"), (2.1, "3")):
            ingest.failure = Unavailable("The ledger cannot be reached.", after)
            for path, body in (("/v1/messages", DRAFT), ("/v1/messages/batch", {"messages": [DRAFT]})):
                status, headers, reply = await api.ask("POST", path, body)
                assert (status, reply["code"]) == (503, "unavailable")
                assert headers["Retry-After"] == reply_after


async def test_a_refusal_of_the_whole_submission_keeps_its_status(
    directory: Directory, acme: NewOrganisation
) -> None:
    ingest = DeskIngest()
    ingest.failure = Refusal("too_many_requests", 429, "At most 10 requests a second.")
    async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
        status, _, reply = await api.ask("POST", "/v1/messages", DRAFT)
        assert (status, reply["code"]) == (429, "too_many_requests")
