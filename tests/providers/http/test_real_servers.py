"""The configured HTTP provider against servers as they are: the very octets, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from engine import __version__
from engine.delivery.breaker import Breaker
from engine.problem_records import ProblemKind
from engine.providers import build
from engine.providers.problems import Noted, Problems
from engine.providers.settings import HttpSettings
from engine.records import Verdict
from tests.providers.carrier import message, verdicts
from tests.providers.scripted import ScriptedServer, serving
from tests.providers.sink import Sink

in_module = pytest.mark.asyncio(loop_scope="module")

PLAIN: dict[str, Any] = {
    "request": {"path": "/send", "fields": {"to": "{to}"}},
    "answer": {"id": "json:id", "code": "json:code"},
}
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>x</body></html>"


async def answered(wire: bytes, **settings: Any) -> tuple[Verdict, list[Noted], ScriptedServer]:
    """The verdict on a message that is answered by `wire`, and what was noted."""

    async def script(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return wire

    problems = Problems()
    async with serving(script) as server:
        url = f"http://127.0.0.1:{server.port}"
        provider = build(HttpSettings(**{"name": "acme", "url": url, **PLAIN, **settings}), Sink(), problems)
        await provider.start()
        try:
            (verdict,) = await verdicts(provider, [message()])
        finally:
            await provider.stop()
    return verdict, problems.collect(), server


def http(status: str, body: bytes, *lines: bytes) -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status.encode(), head, len(body), body)


OBJECT = b'{"id":"m-1","code":0}'
# As PHP writes it before the answer where it is told to show errors.
WARNING = b"<br />\n<b>Warning</b>:  fopen(/x): failed in <b>/srv/a.php</b> on line <b>12</b><br />\n"


@in_module
@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + OBJECT,
        b"\xef\xbb\xbf\xef\xbb\xbf\r\n" + OBJECT,
        "\ufeff".encode("utf-16-le") + OBJECT.decode().encode("utf-16-le"),
        OBJECT[:-1] + b',"operator":"T\xe9l\xe9com"}',
        OBJECT[:-1] + b',"text":"a\nb\tc"}',
        OBJECT[:-1] + b',"text":"\\ud83d"}',
        b"[" + OBJECT + b"]",
        b'{"id":["m-1"],"code":[0]}',
        json.dumps(OBJECT.decode()).encode(),
        OBJECT + b"\n<!-- served in 0.02 s -->",
        OBJECT + b"\0\0;",
        gzip.compress(OBJECT),
        WARNING + OBJECT,
        WARNING
        + b"<br />\n<b>Notice</b>:  Undefined index: {a} in <b>/b.php</b> on line <b>7</b><br />"
        + OBJECT,
        b"\nWarning: mysqli_query(): MySQL has gone away in /a/b.php on line 12\n\r\n" + OBJECT + b"\n",
        b"PHP Deprecated:  x in C:\\y.php(3) : eval()'d code on line 1\n" + OBJECT[:-1] + b",}",
        OBJECT[:-1] + b',"to":["98",],\r\n}',
        OBJECT[:-1] + b', "text": ",}" ,}',
    ],
)
async def test_where_the_id_is_there_the_message_is_accepted(body: bytes) -> None:
    verdict, noted, _ = await answered(http("200 OK", body, b"Content-Type: text/html"))
    assert (verdict.kind, verdict.provider_message_id, verdict.code) == ("accepted", "m-1", "0")
    assert noted == []


@in_module
@pytest.mark.parametrize(
    "body",
    [
        b"", PAGE, OBJECT[:-1], b"{'id': 'm-1'}", b"[%b,%b]" % (OBJECT, OBJECT), b'{"id":null}',
        b"<br />\n<b>Warning</b>: x in y.php\n" + OBJECT, b"callback(" + OBJECT + b")", b"OK",
        b'{"data":{}}', WARNING, WARNING + OBJECT + OBJECT, WARNING + b"[" + OBJECT + b"]",
        WARNING + OBJECT[:-1], WARNING + PAGE + OBJECT, WARNING + b"x" + OBJECT,
        WARNING + OBJECT + b"</body>", WARNING.replace(b"Warning", b"Fatal error") + OBJECT,
        OBJECT[:-1] + b",,}", OBJECT[:-1] + b',"a":,}', OBJECT[:-1] + b",",
    ],
)  # fmt: skip
async def test_where_it_is_not_clear_the_outcome_is_unknown_and_noted(body: bytes) -> None:
    verdict, (noted,), _ = await answered(http("200 OK", body))
    assert (verdict.kind, verdict.code) == ("unknown", "no-id")
    assert (noted.provider, noted.kind, noted.count) == ("acme", ProblemKind.answer_unread, 1)
    assert noted.samples[0].sample.startswith("200: ")


@in_module
async def test_an_object_where_a_list_is_described_is_read() -> None:
    several = {"id": "json:messages.0.id", "code": "json:messages.*.status", "accepted": {"code": [0]}}
    for value in ({"messages": [{"id": "m-1", "status": "0"}]}, {"messages": {"id": "m-1", "status": "0"}}):
        verdict, _, _ = await answered(http("200 OK", json.dumps(value).encode()), answer=several)
        assert (verdict.kind, verdict.provider_message_id, verdict.code) == ("accepted", "m-1", "0")


@in_module
async def test_octets_that_break_the_protocol_are_noted_whether_they_can_be_read_or_not() -> None:
    wire = b"HTTP/1.1 200 OK\nSet-Cookie: a=\x01\nContent-Length : %d\n\n%b" % (len(OBJECT), OBJECT)
    verdict, (noted,), _ = await answered(wire)
    assert (verdict.kind, verdict.provider_message_id) == ("accepted", "m-1")
    assert noted.kind == ProblemKind.protocol_broken
    assert noted.samples[0].sample.startswith("HTTP/1.1 200 OK\\nSet-Cookie: a=\\x01")
    doubtful = b"HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2\n\nab"
    verdict, (noted,), _ = await answered(doubtful)
    assert (verdict.kind, verdict.code) == ("unknown", "bad-answer")
    assert noted.kind == ProblemKind.protocol_broken


@in_module
async def test_every_request_says_who_we_are_and_that_nothing_should_be_packed() -> None:
    _, _, server = await answered(http("200 OK", OBJECT))
    assert b"\r\nUser-Agent: smsengine/%b\r\n" % __version__.encode() in server.heads[0]
    assert b"\r\nAccept-Encoding: identity\r\n" in server.heads[0]
    request = {**PLAIN["request"], "headers": {"user-agent": "acme-client/2"}}
    _, _, server = await answered(http("200 OK", OBJECT), request=request)
    assert server.heads[0].lower().count(b"user-agent") == 1
    assert b"\r\nuser-agent: acme-client/2\r\n" in server.heads[0]


@in_module
@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 407, 413, 415, 421, 422, 431, 451, 500, 502, 503, 504, 520]
)
@pytest.mark.parametrize("body", [PAGE, b"", b"Forbidden", gzip.compress(PAGE)])
async def test_a_refusal_in_foreign_words_is_the_providers_failure(status: int, body: bytes) -> None:
    verdict, (noted,), _ = await answered(http(f"{status} No", body))
    assert (verdict.kind, verdict.code) == ("temporary", str(status))
    assert (noted.kind, noted.count) == (ProblemKind.refusal_foreign, 1)
    assert noted.samples[0].sample.startswith(f"{status}: {'<!DOCTYPE' if len(body) > 20 else ''}")
    # It counts for the breaker, which leaves the provider alone.
    breaker = Breaker(failures=1, pause_s=1.0)
    breaker.ended(verdict.kind, 0.0)
    assert breaker.state == "open"


@in_module
async def test_a_refusal_in_the_providers_own_words_is_noted_nowhere() -> None:
    for status, body in (("403 No", b'{"code":"BLOCKED"}'), ("400 No", b'{"error":"number"}')):
        verdict, noted, _ = await answered(http(status, body))
        assert (verdict.kind, noted) == ("permanent", [])


@in_module
async def test_where_a_redirect_points_to_is_noted() -> None:
    for status in ("301 Moved", "302 Found", "307 Moved", "308 Moved"):
        verdict, (noted,), server = await answered(
            http(status, b"", b"Location: https://www.acme.example/v2")
        )
        assert (verdict.kind, verdict.code) == ("temporary", status[:3])
        assert noted.kind == ProblemKind.refusal_foreign
        assert noted.samples[0].sample == f"{status[:3]} to https://www.acme.example/v2: "
        assert len(server.heads) == 1
