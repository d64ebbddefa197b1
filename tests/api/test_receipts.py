"""Carriers push receipts to an address of their own, and are answered when Redis has them."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from engine.api.push_ports import ReceiptReader
from engine.providers import receipt_readers
from engine.providers.settings import HttpSettings
from engine.receipts.records import Receipt
from engine.stores.postgres.directory import Directory
from engine.stores.redis.link import RedisLink
from engine.stores.redis.receipt_sink import RedisReceiptSink
from tests.api.world import BODY_BYTES_MAX, Api, services_with, serving
from tests.providers.sink import Sink

TOKEN = "0123456789abcdef"
JSON = HttpSettings(
    name="acme",
    receipt_token=TOKEN,
    receipt={
        "id": "id", "own_id": "ours", "state": "state", "code": "code", "to": "to",
        "states": {"delivered": ["ok"], "undelivered": ["no"]},
        "reply": {"status": 202, "content_type": "text/xml", "body": "<ok/>"},
    },
)  # fmt: skip
READERS: dict[str, ReceiptReader] = dict(receipt_readers([JSON]))


class Given(NamedTuple):
    api: Api
    sink: Sink

    async def push(
        self, method: str = "POST", name: str = "acme", token: str = TOKEN, query: str = "",
        body: bytes = b"", **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
        url = f"http://127.0.0.1:{self.api.port}/v1/providers/{name}/receipts/{token}{query}"
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.api.session.request(method, url, data=body or None, headers=headers) as answer:
            return answer.status, dict(answer.headers), await answer.read()


@pytest.fixture
async def given(directory: Directory) -> AsyncIterator[Given]:
    sink = Sink()
    services = await services_with(directory, receipt_readers=READERS, receipts=sink, now_us=lambda: 77)
    async with serving(services) as api:
        yield Given(api, sink)


def expected(**changes: Any) -> Receipt:
    fields: dict[str, Any] = {
        "provider": "acme", "provider_message_id": "A1", "state": "delivered", "code": "ok 000", "at_us": 77,
        "to": "989121234567",
    }  # fmt: skip
    return Receipt(**fields | changes)


async def test_receipts_come_by_get_form_and_json_and_are_answered_as_the_carrier_expects(
    given: Given,
) -> None:
    query = "id=A1&state=ok&code=000&to=%2B989121234567"
    body = b'[{"id": "A1", "state": "ok", "code": "000", "to": "+98 912 123 4567"}, {"id": 2, "state": "no"}]'
    for answer in (
        await given.push("GET", query=f"?{query}"),
        await given.push(body=query.encode(), Content_Type="application/x-www-form-urlencoded"),
        await given.push(body=body, Content_Type="application/json"),
    ):
        assert (answer[0], answer[1]["Content-Type"], answer[2]) == (202, "text/xml", b"<ok/>")
    second = expected(provider_message_id="2", state="undelivered", code="no", to="")
    assert given.sink.receipts == [expected()] * 3 + [second]


@pytest.mark.parametrize(
    ("name", "token"),
    [("acme", "0123456789abcdeF"), ("acme", TOKEN + "0"), ("other", TOKEN), ("acme", "%00"), ("acme", "é")],
)
async def test_a_wrong_token_and_an_unknown_provider_look_like_any_unknown_path(
    given: Given, name: str, token: str
) -> None:
    status, _, body = await given.push(name=name, token=token, body=b"id=A1&state=ok")
    unknown = await given.api.ask("GET", "/v1/nothing")
    assert status == unknown[0] == 404
    assert b"There is nothing at this path." in body
    assert given.sink.receipts == []


async def test_receipts_that_cannot_be_kept_are_to_be_sent_again(given: Given) -> None:
    given.sink.keeps = False
    status, headers, body = await given.push(query="?id=A1&state=ok", method="GET")
    assert (status, int(headers["Retry-After"]) >= 1) == (503, True)
    assert b"send them again" in body


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"id": "A1"}', "application/json", 422),
        (b"id=A1", "application/x-www-form-urlencoded", 422),
        (b"{", "application/json", 400),
        (b"x" * (BODY_BYTES_MAX + 1), "application/json", 413),
        (b'{"id": "A1", "state": "ok"} {"id"', "application/json", 400),
        (b"<html>", "text/html", 422),
        (b"", "application/json", 400),
    ],
)
async def test_what_cannot_be_read_is_refused_and_nothing_of_it_is_taken(
    given: Given, body: bytes, kind: str, status: int
) -> None:
    reply, headers, _ = await given.push(body=body, Content_Type=kind)
    assert (reply, headers["Content-Type"]) == (status, "application/problem+json")
    assert given.sink.receipts == []
    noted = [(one.provider, one.kind, one.count) for one in given.api.services.problems.collect()]
    assert noted == ([("acme", "receipt_unread", 1)] if status != 413 else [])


async def test_of_several_receipts_those_that_can_be_read_are_taken_and_the_request_is_refused(
    given: Given,
) -> None:
    body = b'[{"id": "A2"}, {"id": "A1", "state": "ok", "code": "000", "to": "989121234567"}]'
    status, headers, answer = await given.push(body=body, Content_Type="application/json")
    assert (status, headers["Content-Type"]) == (422, "application/problem+json")
    assert b"0.state" in answer
    assert given.sink.receipts == [expected()]
    # When they cannot be kept, that is what it is told: it must send them again in any case.
    given.sink.keeps = False
    assert (await given.push(body=body, Content_Type="application/json"))[0] == 503


JSON_RECEIPT = b'{"id": "A1", "state": "ok", "code": "000", "to": "989121234567"}'


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(JSON_RECEIPT)),
        ("deflate", zlib.compress(JSON_RECEIPT)),
        ("deflate", zlib.compress(JSON_RECEIPT)[2:-4]),
        ("", gzip.compress(JSON_RECEIPT)),
        ("UTF-8", JSON_RECEIPT),
        ("identity", b"\xef\xbb\xbf" + JSON_RECEIPT),
    ],
)
async def test_packed_receipts_are_read(given: Given, coding: str, body: bytes) -> None:
    headers = {"Content_Encoding": coding} if coding else {}
    status, _, _ = await given.push(body=body, Content_Type="application/json", **headers)
    assert status == 202
    assert given.sink.receipts == [expected()]


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(bytes(50 * BODY_BYTES_MAX))),
        ("deflate", zlib.compress(bytes(50 * BODY_BYTES_MAX))),
        ("", gzip.compress(bytes(50 * BODY_BYTES_MAX))),
        ("gzip", gzip.compress(JSON_RECEIPT)[:-9]),
        ("gzip", JSON_RECEIPT),
        ("br", JSON_RECEIPT[::-1]),
    ],
)
async def test_what_cannot_be_unpacked_is_refused(given: Given, coding: str, body: bytes) -> None:
    headers = {"Content_Encoding": coding} if coding else {}
    status, _, answer = await given.push(body=body, Content_Type="application/json", **headers)
    assert status in (400, 413), answer
    assert given.sink.receipts == []


async def test_octets_that_are_no_utf_8_do_no_harm(given: Given) -> None:
    path = f"/v1/providers/acme/receipts/{TOKEN}?id=A1&state=ok&code=\udcff%FF".encode(
        errors="surrogateescape"
    )
    answer = await given.api.raw(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    status = int(answer.split()[1])
    assert status in (202, 400)
    assert [r.provider_message_id for r in given.sink.receipts] == (["A1"] if status == 202 else [])


async def test_trying_the_address_takes_nothing(given: Given) -> None:
    assert (await given.push("HEAD", query="?id=A1&state=ok"))[0] == 202
    assert (await given.push("PUT"))[0] == 405
    assert given.sink.receipts == []


async def test_a_carrier_is_answered_only_after_redis_has_the_receipts(
    directory: Directory, redis_url: str
) -> None:
    link = RedisLink(redis_url.rpartition("/")[0] + "/13", timeout_s=5, name="receipts")
    await link.call("FLUSHDB")
    sink = RedisReceiptSink(link, 1)
    services = await services_with(directory, receipt_readers=READERS, receipts=sink)
    async with serving(services) as api:
        given = Given(api, Sink())
        answers = await asyncio.gather(*(given.push("GET", query=f"?id={n}&state=ok") for n in range(50)))
        assert {status for status, _, _ in answers} == {202}
        assert 1 <= await link.call("XLEN", "receipts:{0}") <= 50
        assert sink.counts.kept == 50
        await sink.close()
        assert (await given.push("GET", query="?id=1&state=ok"))[0] == 503
    await link.call("FLUSHDB")
    await link.close()
