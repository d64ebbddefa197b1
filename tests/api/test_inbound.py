"""Inbound messages over HTTP: pushed by providers, listed by organisations, routed by operators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from engine.api.push_ports import InboundReader
from engine.inbound.records import InboundMessage
from engine.organisations import NewOrganisation
from engine.providers import inbound_readers
from engine.providers.settings import HttpSettings
from engine.stores.postgres.directory import Directory
from tests.api.world import Api, recipients_of, services_with, serving
from tests.providers.sink import Sink

TOKEN = "0123456789abcdef"
BEGIN = datetime(2026, 11, 28, tzinfo=UTC)
READERS: dict[str, InboundReader] = dict(
    inbound_readers(
        [
            HttpSettings(name="json", receipt_token=TOKEN, preset="generic", url="http://127.0.0.1:9"),
            HttpSettings(name="twilio", receipt_token=TOKEN, preset="twilio"),
            HttpSettings(name="none", receipt_token=TOKEN, receipt={"id": "id"}),
        ]
    )
)


class Given(NamedTuple):
    api: Api
    sink: Any
    stored: list[InboundMessage]

    async def push(self, name: str, body: bytes, token: str = TOKEN, query: str = "") -> tuple[int, bytes]:
        url = f"http://127.0.0.1:{self.api.port}/v1/providers/{name}/inbound/{token}{query}"
        async with self.api.session.post(url, data=body) as answer:
            return answer.status, await answer.read()


@pytest.fixture
async def given(directory: Directory, acme: NewOrganisation) -> AsyncIterator[Given]:
    sink, stored = Sink(), list[InboundMessage]()

    async def page(organisation_id: int, before: tuple[int, str], limit: int) -> list[InboundMessage]:
        found = [
            m
            for m in stored
            if m.organisation_id == organisation_id and (round(m.at.timestamp() * 1e6), m.id) < before
        ]
        return sorted(found, key=lambda m: (m.at, m.id), reverse=True)[:limit]

    recipients = recipients_of(directory.pool, inbound=sink, inbound_page=page)
    services = await services_with(
        directory, recipients=recipients, inbound_readers=READERS, now_us=lambda: 77
    )
    async with serving(services, acme.api_key) as api:
        yield Given(api, sink, stored)


def message(organisation_id: int, number: int) -> InboundMessage:
    return InboundMessage(
        id=f"0190a0b0-0000-7000-8000-{number:012}", organisation_id=organisation_id,
        at=BEGIN + timedelta(seconds=number), provider="acme", sender="+4915112345678", recipient="12345",
        text=f"text {number}", keyword="", action="",
    )  # fmt: skip


async def test_a_provider_pushes_messages_and_is_answered_when_they_are_kept(given: Given) -> None:
    one = b'{"id": "1", "from": "4915112345678", "to": "+1 2345", "text": "STOP"}'
    assert await given.push("json", one) == (200, b"")
    form = b"MessageSid=SM1&From=%2B4915112345678&To=%2B14155550123&Body=Gr%C3%BC%C3%9Fe"
    assert await given.push("twilio", form) == (200, b"<Response/>")
    parts = [part for part, _, _ in given.sink.receipts]
    assert [(p.provider, p.sender, p.recipient, p.utf16.decode("utf-16-be"), p.at_us) for p in parts] == [
        ("json", "+4915112345678", "12345", "STOP", 77),
        ("twilio", "+4915112345678", "14155550123", "Grüße", 77),
    ]
    assert len({digest for _, digest, _ in given.sink.receipts}) == 2
    given.sink.keeps = False
    assert (await given.push("json", one))[0] == 503


async def test_of_several_those_that_can_be_read_are_kept_and_the_request_is_refused_for_the_others(
    given: Given,
) -> None:
    body = b'[{"from": "4915112345678", "to": "1", "text": "a"}, {"to": "1", "text": "b"}]'
    status, _ = await given.push("json", body)
    assert (status, [p.utf16[1::2] for p, _, _ in given.sink.receipts]) == (422, [b"a"])
    assert (await given.push("json", b"\xff\xfe{"))[0] in (400, 422)
    for name, token in (("json", "x" * 16), ("none", TOKEN), ("nobody", TOKEN)):
        assert (await given.push(name, body, token))[0] == 404
    assert len(given.sink.receipts) == 1


async def test_an_organisation_lists_its_own_newest_first_and_operators_those_of_nobody(
    given: Given, acme: NewOrganisation
) -> None:
    given.stored.extend([*(message(acme.id, n) for n in range(5)), message(0, 7)])
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        status, _, page = await given.api.ask("GET", f"/v1/inbound-messages?limit=2&cursor={cursor}")
        assert status == 200
        seen += [m["text"] for m in page["inbound_messages"]]
        cursor = page["next"]
    assert seen == [f"text {n}" for n in (4, 3, 2, 1, 0)]
    assert "provider" not in page["inbound_messages"][0]
    [nobodys] = (await given.api.admin("GET", "/inbound-messages"))[1]["inbound_messages"]
    assert (nobodys["text"], nobodys["provider"], nobodys["organisation_id"]) == ("text 7", "acme", 0)
    found = (await given.api.admin("GET", f"/inbound-messages?organisation={acme.id}&limit=1"))[1]
    assert [m["text"] for m in found["inbound_messages"]] == ["text 4"]
    assert (await given.api.ask("GET", "/v1/inbound-messages?cursor=x"))[2]["field"] == "cursor"


async def test_operators_say_whose_messages_are_and_write_one_to_try_it(
    given: Given, acme: NewOrganisation
) -> None:
    admin = given.api.admin
    route = {"number": "+12345", "keyword": "pizza", "organisation_id": acme.id}
    kept = route | {"number": "12345", "keyword": "PIZZA"}
    assert await admin("PUT", "/inbound-routes", route) == (200, kept)
    assert await admin("PUT", "/inbound-routes", route) == (200, kept)
    assert kept in (await admin("GET", "/inbound-routes"))[1]["inbound_routes"]
    for unknown in (999_999, -1, 2**63, 10**30):
        assert (await admin("PUT", "/inbound-routes", route | {"organisation_id": unknown}))[0] == 404
    for wrong in ("two words", "a\0b", "a\x07b", "x" * 41):
        assert (await admin("PUT", "/inbound-routes", route | {"keyword": wrong}))[1]["field"] == "keyword"
    assert (await admin("PUT", "/inbound-routes", route | {"number": "x"}))[1]["field"] == "number"
    assert (await admin("POST", "/inbound-routes/remove", {"number": "12345", "keyword": "Pizza"}))[0] == 204
    assert kept not in (await admin("GET", "/inbound-routes"))[1]["inbound_routes"]
    written = {"from": "+4915112345678", "to": "12345", "text": "hello"}
    for _ in range(2):
        assert (await admin("POST", "/inbound-messages", written))[0] == 202
    assert len({digest for _, digest, _ in given.sink.receipts}) == 2, "each is a message of its own"
    for wrong, field in (
        ({"from": " "}, "from"),
        ({"from": "x"}, "from"),
        ({"from": "015112345678"}, "from"),
        ({"to": ""}, "to"),
        ({"to": "x"}, "to"),
        ({"to": "1" * 16}, "to"),
        ({"text": "x" * 5001}, "text"),
    ):
        assert (await admin("POST", "/inbound-messages", written | wrong))[1]["field"] == field
