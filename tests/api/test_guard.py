"""What holds for every call: ids, problems, limits, deadlines, draining, and no surprises."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from engine.api import server
from engine.api.guard import Deadlines
from engine.errors import Broken, Misfit
from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from tests.api.world import ADMIN_KEY, BODY_BYTES_MAX, DRAFT, Api, DeskIngest, services_with, serving

PATHS = {
    "/v1/messages": {"GET", "HEAD", "POST"},
    "/v1/messages/estimate": {"POST"},
    "/v1/batches/0190a0b000007000800000000000-1": {"GET", "HEAD"},
    "/v1/messages/batch": {"POST"},
    "/v1/messages/0190a0b0-0000-7000-8000-000000000000": {"GET", "HEAD"},
    "/v1/balance": {"GET", "HEAD"},
    "/healthz": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/v1/admin/organisations": {"GET", "HEAD", "POST"},
    "/v1/admin/organisations/1/keys": {"GET", "HEAD", "POST"},
    "/v1/admin/organisations/1/keys/1": {"DELETE", "PATCH"},
    "/v1/admin/organisations/1/balance": {"GET", "HEAD"},
    "/v1/admin/organisations/1/top-ups": {"POST"},
    "/v1/admin/status": {"GET", "HEAD"},
    "/v1/admin/audit": {"GET", "HEAD"},
}


@pytest.mark.parametrize("path", PATHS)
async def test_another_method_is_refused_with_those_allowed(api: Api, path: str) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - PATHS[path]:
        status, headers, reply = await api.ask(method, path)
        assert (status, reply["code"]) == (405, "method_not_allowed")
        assert set(headers["Allow"].split(", ")) == PATHS[path]
        assert headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/message", "/v1/messages/", "/v1/admin/keys", "/favicon.ico"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PROPFIND"])
async def test_an_unknown_path_is_not_found(api: Api, path: str, method: str) -> None:
    status, headers, reply = await api.ask(method, path)
    assert (status, reply["code"]) == (404, "not_found")
    assert headers["X-Request-Id"] == reply["request_id"]


async def test_a_path_with_a_slash_at_its_end_is_told_that_none_has_one(api: Api) -> None:
    for path in ("/v1/messages/", "/v1/admin/prices/?a=b"):
        status, _, reply = await api.ask("POST", path)
        assert (status, reply["code"]) == (404, "not_found")
        assert reply["detail"] == "There is nothing at this path: no path here ends in a slash."
    for path in ("/", "/v1/message"):
        _, _, reply = await api.ask("POST", path)
        assert reply["detail"] == "There is nothing at this path."


@pytest.mark.parametrize("sane", ["a", "7f3.A_b-9", "x" * 64])
async def test_a_sane_request_id_is_kept(api: Api, sane: str) -> None:
    _, headers, _ = await api.ask("GET", "/healthz", X_Request_Id=sane)
    assert headers["X-Request-Id"] == sane


@pytest.mark.parametrize("insane", ["", "x" * 65, "a b", "a;b", "caf\u00e9"])
async def test_any_other_request_id_is_replaced(api: Api, insane: str) -> None:
    ids = [(await api.ask("GET", "/healthz", X_Request_Id=insane))[1]["X-Request-Id"] for _ in range(3)]
    assert insane not in ids
    assert len(set(ids)) == 3


async def test_a_header_cannot_be_smuggled_through_the_request_id(api: Api) -> None:
    answer = await api.raw(
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\rSet-Cookie: b\r\nConnection: close\r\n\r\n"
    )
    assert b"Set-Cookie" not in answer


async def test_answers_to_http_1_0_and_head_are_well_formed(api: Api) -> None:
    old = await api.raw(b"GET /healthz HTTP/1.0\r\n\r\n")
    head, _, body = old.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close" in head
    assert body == b'{"status":"ok"}'
    kept = await api.raw(
        b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n"
    )
    assert kept.count(b"200 OK") == 2
    assert b"Connection: keep-alive" in kept
    head_only = await api.raw(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 15\r\n" in head_only
    assert head_only.endswith(b"\r\n\r\n")


async def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: %d\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await api.raw(b"".join(one % i for i in range(200)) + last)
    reply = [line for line in answer.split(b"\r\n") if line.startswith(b"X-Request-Id: ")]
    assert reply[:200] == [b"X-Request-Id: %d" % i for i in range(200)]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_with_a_problem(api: Api, request_bytes: bytes) -> None:
    head, _, body = (await api.raw(request_bytes)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    reply = msgspec.json.decode(body)
    assert reply["code"] == "invalid_request"
    assert f"X-Request-Id: {reply['request_id']}".encode() in head
    assert b"Connection: close" in head


@pytest.mark.parametrize(
    ("request_bytes", "says"),
    [
        (b"GET /healthz?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "at most 8 KiB"),
        (
            b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nno",
            "`Content-Encoding` must be gzip or deflate",
        ),
        (b"GET /healthz HTTP/1.1\r\n\r\n", "one `Host`"),
    ],
)
async def test_the_problem_of_a_bad_head_says_what_is_allowed(
    api: Api, request_bytes: bytes, says: str
) -> None:
    reply = msgspec.json.decode((await api.raw(request_bytes)).partition(b"\r\n\r\n")[2])
    assert (reply["status"], reply["code"]) == (400, "invalid_request")
    assert says in reply["detail"]


@pytest.mark.parametrize(
    "line",
    [
        b"OPTIONS *",
        b"CONNECT example.org:443",
        b"CONNECT [::1]:443",
        b"CONNECT /v1/messages",
        b"GET http://example.org",
        b"GET http://example.org/nothing",
        b"GET //v1/messages",
        b"GET ///a:b/",
        b"GET /v1%2Fmessages",
        b"GET /v1/../healthz",
        b"GET /v1/messages%0A",
        b"POST /%0d%0a%00",
        b"TRACE /",
    ],
)
async def test_every_form_of_a_target_is_answered_with_a_problem(api: Api, line: bytes) -> None:
    answer = await api.raw(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    reply = msgspec.json.decode(body)
    assert (reply["status"], reply["code"]) == (404, "not_found")
    assert b"Content-Type: application/problem+json" in head
    assert b"Connection: close" in head


@pytest.mark.parametrize("host", [b"x", b"x:8080", b"[::1]:8080", b"xn--a", b"a_b", b"%00"])
async def test_the_host_of_an_absolute_target_says_nothing(
    api: Api, host: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await api.raw(b"GET http://%s/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % host)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert caplog.records == []


@pytest.mark.parametrize("chunk", [b"zz\r\nabc\r\n", b"-1\r\n", b"3\r\nabcde\r\n", b"f" * 20 + b"\r\n"])
async def test_a_chunk_that_is_wrong_ends_the_request_at_once(
    directory: Directory, acme: NewOrganisation, chunk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    # With this time-out an answer that waited for the deadline would not come within the test.
    async with serving(await services_with(directory, timeout_s=600.0), acme.api_key) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(
            f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {acme.api_key}\r\n"
            "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        async with asyncio.timeout(60):
            # From here on the body is being read.
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"3\r\nabc\r\n" + chunk)
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert caplog.records == []


async def test_a_client_that_sends_no_whole_head_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_S", 0.05)
    with capture_logs() as logs:
        for part in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"GE"):
            assert await api.raw(part) == b""
    assert logs == []


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_a_byte_order_mark_before_a_body_is_passed_over(api: Api, mark: bytes) -> None:
    body = mark + msgspec.json.encode(DRAFT)
    assert (await api.ask("POST", "/v1/messages", body))[0] == 202
    batch = mark + msgspec.json.encode({"messages": [DRAFT]})
    assert (await api.ask("POST", "/v1/messages/batch", batch))[0] == 202


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "there is none"),
        (msgspec.json.encode(DRAFT).decode().encode("utf-16"), "this one is UTF-16-LE"),
        (msgspec.json.encode(DRAFT).decode().encode("utf-16-be"), "this one is UTF-16-BE"),
        (b'{"to": "+4915112345678", "text": "\xe9"}', "octet 34 is none"),
        (b'{"to": "+4915112345678", "text": "a\nb"}', "it is none at octet 35"),
        (b'{"to": "+4915112345678"', "it ends within a value"),
    ],
)
async def test_a_body_that_is_no_json_is_told_where(api: Api, body: bytes, says: str) -> None:
    status, _, reply = await api.ask("POST", "/v1/messages", body)
    assert (status, reply["code"]) == (400, "invalid_json"), reply
    assert reply["detail"] == f"The body must be JSON in UTF-8; {says}."


async def test_octets_that_are_not_utf8_are_told_by_their_place_in_the_batch(api: Api) -> None:
    body = b'{"messages": [%s, {"to": "+4915112345678", "text": "\xe9"}]}' % msgspec.json.encode(DRAFT)
    status, _, reply = await api.ask("POST", "/v1/messages/batch", body)
    assert (status, reply["code"]) == (400, "invalid_json"), reply
    assert reply["detail"] == f"The body must be JSON in UTF-8; octet {body.index(0xE9)} is none."


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
@pytest.mark.parametrize("key", [b"", b"Authorization: Bearer nobody\r\n"])
async def test_a_body_that_is_not_as_encoded_as_said_leaves_no_frames_in_the_log(
    api: Api, coding: bytes, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody reads the body of a caller who is unknown; the connection's own code passes it over."""
    request = (
        b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Content-Encoding: %s\r\n%s\r\nplain" % (coding, key)
    )
    with capture_logs() as logs:
        answer = await api.raw(request)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert caplog.records == []
    assert len(logs) <= 1


async def test_an_expectation_is_met_or_refused(api: Api) -> None:
    body = msgspec.json.encode(DRAFT)
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.api_key}\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\nExpect: "
    ).encode()
    answer = await api.raw(head + b"100-continue\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\n")
    answer = await api.raw(head + b"the-impossible\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 417 ")
    assert b'"code":"expectation_failed"' in answer


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/batch", "/v1/admin/organisations"])
async def test_a_body_over_the_limit_is_refused(api: Api, path: str) -> None:
    key = ADMIN_KEY if "admin" in path else None
    status, _, reply = await api.ask("POST", path, b"x" * (BODY_BYTES_MAX + 1), key=key)
    assert (status, reply["code"]) == (413, "body_too_large")
    assert str(BODY_BYTES_MAX) in reply["detail"]


async def test_a_body_over_the_limit_is_refused_without_a_length_too(api: Api) -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b"x" * (BODY_BYTES_MAX // 20)

    url = f"http://127.0.0.1:{api.port}/v1/messages"
    headers = {"Authorization": f"Bearer {api.api_key}"}
    async with api.session.post(url, data=chunks(), headers=headers) as response:
        assert response.status == 413


async def test_a_compressed_body_counts_with_its_full_size(api: Api) -> None:
    body = msgspec.json.encode(DRAFT)
    status, _, _ = await api.ask("POST", "/v1/messages", gzip.compress(body), Content_Encoding="gzip")
    assert status == 202
    bomb = gzip.compress(b" " * (BODY_BYTES_MAX * 8))
    status, _, reply = await api.ask("POST", "/v1/messages", bomb, Content_Encoding="gzip")
    assert (status, reply["code"]) == (413, "body_too_large")


async def test_a_body_that_is_not_as_its_headers_say_is_refused_and_ends_its_connection(api: Api) -> None:
    status, headers, reply = await api.ask("POST", "/v1/messages", b"not gzip", Content_Encoding="gzip")
    assert (status, reply["code"], headers["Connection"]) == (400, "invalid_body", "close")


@pytest.mark.parametrize(
    ("fields", "is_taken"),
    [
        ("Transfer-Encoding: chunked", True),
        ("Transfer-Encoding:  Chunked ", True),
        ("Transfer-Encoding: gzip, chunked", False),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", False),
        ("Transfer-Encoding: chunked, chunked", False),
        ("Transfer-Encoding: identity, chunked", False),
        ("Transfer-Encoding: x, chunked", False),
        ("Transfer-Encoding: gzip", False),
    ],
)
async def test_a_transfer_coding_that_is_not_undone_is_refused(
    directory: Directory, acme: NewOrganisation, fields: str, is_taken: bool
) -> None:
    body = msgspec.json.encode(DRAFT)
    ingest = DeskIngest()
    async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
        answer = await api.raw(
            f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.api_key}\r\n{fields}\r\n"
            f"Connection: close\r\n\r\n{len(body):x}\r\n".encode()
            + body
            + b"\r\n0\r\n\r\n"
        )
    assert answer.startswith(b"HTTP/1.1 202 " if is_taken else b"HTTP/1.1 400 "), answer
    assert bool(ingest.accepted) is is_taken
    if fields.endswith(": gzip, chunked"):
        reply = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])
        assert (reply["code"], reply["field"]) == ("invalid_body", "Transfer-Encoding")
        assert reply["detail"] == "`Transfer-Encoding` must be chunked, or absent."


async def test_a_body_of_several_pieces_is_read_whole(api: Api) -> None:
    body = msgspec.json.encode({"messages": [DRAFT] * 1000})
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(
        f"POST /v1/messages/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.api_key}\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    for at in range(0, len(body), 5_000):
        writer.write(body[at : at + 5_000])
        await writer.drain()
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 202 Accepted\r\n")
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["results"]) == 1000


async def test_a_client_that_leaves_within_its_body_harms_nobody(api: Api) -> None:
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(
            f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.api_key}\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        status, _, _ = await api.ask("POST", "/v1/messages", DRAFT)
    assert status == 202
    assert logs == []


async def test_a_request_that_takes_too_long_is_answered_503(
    directory: Directory, acme: NewOrganisation
) -> None:
    ingest = DeskIngest()
    ingest.gate.clear()
    async with serving(await services_with(directory, ingest=ingest, timeout_s=0.2), acme.api_key) as api:
        asked = [api.ask("POST", "/v1/messages", DRAFT) for _ in range(3)]
        for status, headers, reply in await asyncio.gather(*asked):
            assert (status, reply["code"]) == (503, "timeout")
            assert "Idempotency-Key" in reply["detail"]
            assert int(headers["Retry-After"]) >= 1
        # The connection is good for the next request, and so is the deadline's timer.
        ingest.gate.set()
        assert (await api.ask("POST", "/v1/messages", DRAFT))[0] == 202
        ingest.gate.clear()
        assert (await api.ask("POST", "/v1/messages", DRAFT))[0] == 503


async def test_a_deadline_leaves_its_task_as_it_was() -> None:
    deadlines, task = Deadlines(0.01), asyncio.current_task()
    assert task is not None
    for _ in range(2):
        deadlines.begin()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        assert deadlines.is_over(task)
        deadlines.end(task)
        assert task.cancelling() == 0


async def test_a_body_that_does_not_come_is_answered_408(directory: Directory, acme: NewOrganisation) -> None:
    async with serving(await services_with(directory, timeout_s=0.2), acme.api_key) as api:
        answer = await api.raw(
            f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.api_key}\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b'"code":"body_timeout"' in answer


async def test_an_unexpected_error_is_answered_500_and_logged_without_the_message(
    directory: Directory, acme: NewOrganisation
) -> None:
    ingest = DeskIngest()
    ingest.failure = KeyError(f"{DRAFT['to']} {DRAFT['text']}")
    async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
        with capture_logs() as logs:
            status, _, reply = await api.ask("POST", "/v1/messages", DRAFT, X_Request_Id="find-me")
    assert (status, reply["code"], reply["request_id"]) == (500, "internal", "find-me")
    assert "KeyError" not in json.dumps(reply)
    [line] = logs
    assert (line["log_level"], line["request_id"], line["error"]) == ("error", "find-me", "KeyError")
    assert any("submit" in frame for frame in line["frames"])
    for secret in (DRAFT["to"], DRAFT["text"], api.api_key):
        assert secret not in repr(logs)


async def test_a_broken_invariant_reaches_the_process(directory: Directory, acme: NewOrganisation) -> None:
    ingest, reply = DeskIngest(), asyncio.get_running_loop().create_future()
    ingest.failure = Broken("units went missing")
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reply.set_result(context["exception"]))
    try:
        async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
            status, _, _ = await api.ask("POST", "/v1/messages", DRAFT)
            async with asyncio.timeout(60):
                assert await reply is ingest.failure
    finally:
        loop.set_exception_handler(before)
    assert status == 500


async def test_a_misfit_costs_its_request_alone(directory: Directory, acme: NewOrganisation) -> None:
    ingest, reached = DeskIngest(), []
    ingest.failure = Misfit("PostgreSQL cannot serve: a value does not fit its column.")
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reached.append(context))
    try:
        async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
            status, _, reply = await api.ask("POST", "/v1/messages", DRAFT)
    finally:
        loop.set_exception_handler(before)
    assert (status, reply["code"], reached) == (500, "internal", [])


async def test_readiness_names_the_part_that_is_away(directory: Directory) -> None:
    parts = {"redis": "ok", "postgres": "ok"}

    async def ready() -> dict[str, str]:
        return dict(parts)

    async with serving(await services_with(directory, ready=ready)) as api:
        assert (await api.ask("GET", "/readyz"))[::2] == (200, {"status": "ok", "parts": parts})
        parts["redis"] = "unavailable"
        assert (await api.ask("GET", "/readyz"))[::2] == (503, {"status": "unavailable", "parts": parts})
        assert (await api.ask("GET", "/healthz"))[::2] == (200, {"status": "ok"})


async def test_while_draining_answers_ask_to_reconnect(directory: Directory, acme: NewOrganisation) -> None:
    services = await services_with(directory)
    async with serving(services, acme.api_key) as api:
        _, headers, _ = await api.ask("POST", "/v1/messages", DRAFT)
        assert "Connection" not in headers
        services.draining.set()
        for method, path, body, expected in (
            ("POST", "/v1/messages", DRAFT, 202),
            ("POST", "/v1/messages", {}, 422),
            ("GET", "/healthz", None, 200),
            ("GET", "/readyz", None, 503),
            ("GET", "/nowhere", None, 404),
        ):
            status, headers, _ = await api.ask(method, path, body)
            assert (status, headers["Connection"]) == (expected, "close")


async def test_stopping_lets_the_request_under_way_end(directory: Directory, acme: NewOrganisation) -> None:
    ingest = DeskIngest()
    ingest.gate.clear()
    async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
        asked = asyncio.create_task(api.ask("POST", "/v1/messages", DRAFT))
        async with asyncio.timeout(60):
            await ingest.entered.wait()
        stopping = asyncio.create_task(api.server.stop(5))
        for _ in range(1000):
            if not await accepts(api.port):
                break
        else:
            pytest.fail("a server that stops still accepts")
        assert not stopping.done()
        assert not asked.done()
        ingest.gate.set()
        status, _, _ = await asked
        await stopping
        assert status == 202


async def test_stopping_gives_up_a_request_that_does_not_end(
    directory: Directory, acme: NewOrganisation
) -> None:
    ingest = DeskIngest()
    ingest.gate.clear()
    async with serving(await services_with(directory, ingest=ingest), acme.api_key) as api:
        asked = asyncio.create_task(api.ask("POST", "/v1/messages", DRAFT))
        async with asyncio.timeout(60):
            await ingest.entered.wait()
            await api.server.stop(0.05)
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await asked


async def test_a_request_on_its_way_when_the_server_stops_is_answered_and_ends_its_connection(
    directory: Directory,
) -> None:
    async with serving(await services_with(directory)) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        async with asyncio.timeout(60):
            writer.write(request)
            first = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(length_in(first))
            api.services.draining.set()
            stopping = asyncio.create_task(api.server.stop(5))
            while await accepts(api.port):
                pass
            # The caller has no sign yet that the server stops.
            writer.write(request)
            second = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(length_in(second))
            assert await reader.read() == b""
            await stopping
    assert b"close" not in first.lower()
    assert second.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in second.lower()


def length_in(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
field_values = json_values | st.sampled_from(
    ["+4915112345678", "express", "normal", 60, "2030-01-31T09:00:00Z"]
)
fields = ["to", "text", "from", "queue", "validity", "send_at", "reference", "name", "units", "messages", "x"]
near_drafts = st.dictionaries(st.sampled_from(fields), field_values, max_size=8)
near_batches = st.fixed_dictionaries(
    {"messages": st.lists(near_drafts | json_values, max_size=5) | json_values}
)
bodies = st.binary(max_size=200) | st.builds(
    lambda value: json.dumps(value).encode(), json_values | near_drafts | near_batches
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies)
async def test_no_body_makes_the_engine_fail(api: Api, body: bytes) -> None:
    for path in ("/v1/messages", "/v1/messages/batch"):
        status, headers, reply = await api.ask("POST", path, body)
        assert status in (202, 400, 402, 413, 422), (path, reply)
        assert (headers["Content-Type"] == "application/json") == (status == 202)
    for path in ("/organisations", "/organisations/1/keys", "/organisations/1/top-ups"):
        status, reply = await api.admin("POST", path, body)
        assert status in (200, 201, 400, 404, 409, 422), (path, reply)
