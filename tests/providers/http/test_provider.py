"""The configured HTTP provider against carriers that do everything wrong, over real sockets."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.providers import build
from engine.providers.http.description import receipt_reader
from engine.providers.http.provider import ANSWER_BYTES_MAX
from engine.providers.ports import Provider
from engine.providers.problems import Problems
from engine.providers.settings import HttpSettings
from engine.providers.simulated_numbers import SimulatedNumbers
from tests.providers.carrier import TOKEN, message, verdicts
from tests.providers.scripted import Script, ScriptedServer, reset, serving, until
from tests.providers.sink import Sink

in_module = pytest.mark.asyncio(loop_scope="module")

TAKEN = b'HTTP/1.1 201 Created\r\nContent-Length: 12\r\n\r\n{"id":"m-1"}'
PLAIN: dict[str, Any] = {
    "request": {"path": "/send", "fields": {"to": "{to}", "text": "{text}"}},
    "answer": {"id": "json:id"},
}


def settings(**given: Any) -> HttpSettings:
    return HttpSettings(**{"name": "acme", "url": "http://127.0.0.1:1", **PLAIN, **given})


@asynccontextmanager
async def provider_with(made: HttpSettings) -> AsyncIterator[Provider]:
    provider = build(made, Sink(), Problems())
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()


@asynccontextmanager
async def carrier(script: Script, **given: Any) -> AsyncIterator[tuple[Provider, ScriptedServer]]:
    async with serving(script) as server:
        made = settings(**{"url": f"http://127.0.0.1:{server.port}/v1/", "timeout_s": 0.5, **given})
        async with provider_with(made) as provider:
            yield provider, server


@in_module
async def test_a_fault_in_reading_an_answer_costs_its_message_an_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    async with carrier(fixed(TAKEN), timeout_s=10.0) as (provider, _):
        assert isinstance(provider, SimulatedNumbers)
        monkeypatch.setattr(provider.inner, "_recognise", fail)
        found = await verdicts(provider, [message(n) for n in range(3)])
        assert [(v.kind, v.code) for v in found] == [("unknown", "fault")] * 3


def fixed(answer: bytes) -> Script:
    async def script(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return answer

    return script


# -- what becomes of a message


@in_module
async def test_a_message_goes_out_as_described_and_its_answer_is_understood() -> None:
    async with carrier(fixed(TAKEN)) as (provider, server):
        (verdict,) = await verdicts(provider, [message(1)])
    assert (verdict.kind, verdict.provider, verdict.provider_message_id) == ("accepted", "acme", "m-1")
    assert verdict.code == "201"
    assert 0 < verdict.latency_us < 500_000
    assert server.heads[0].startswith(b"POST /v1/send HTTP/1.1\r\nHost: 127.0.0.1:")
    assert json.loads(server.bodies[0]) == {"to": message().to, "text": message().text}


async def hang(body: bytes, writer: asyncio.StreamWriter) -> None:
    return None


async def drop(body: bytes, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def close(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def half(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(TAKEN[:-3])
    await writer.drain()
    writer.close()


async def late(body: bytes, writer: asyncio.StreamWriter) -> bytes:
    await until(writer.transport.is_closing)  # the provider waits no longer
    return TAKEN


async def huge(body: bytes, writer: asyncio.StreamWriter) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (ANSWER_BYTES_MAX + 1) + b"x" * (
        ANSWER_BYTES_MAX + 1
    )


@in_module
@pytest.mark.parametrize(
    ("script", "kind", "code"),
    [
        (hang, "unknown", "timeout"),
        (late, "unknown", "timeout"),
        (drop, "unknown", "reset"),
        (close, "unknown", "closed"),
        (half, "unknown", "cut-short"),
        (huge, "unknown", "answer-too-large"),
        (fixed(b"SSH-2.0-OpenSSH_9.2\r\n"), "unknown", "bad-answer"),
        (fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\x00{["), "unknown", "no-id"),
        (fixed(b"HTTP/1.1 204 No Content\r\n\r\n"), "unknown", "no-id"),
        (fixed(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"), "temporary", "302"),
        (fixed(b"HTTP/1.1 503 Away\r\nContent-Length: 2\r\n\r\n\xff\xfe"), "temporary", "503"),
        (fixed(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n"), "temporary", "400"),
        (fixed(b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n{}"), "permanent", "400"),
        (fixed(b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n"), "throttled", "429"),
    ],
)
async def test_whatever_a_carrier_does_the_message_has_its_verdict(
    script: Script, kind: str, code: str
) -> None:
    async with carrier(script) as (provider, _):
        (verdict,) = await verdicts(provider, [message()])
    assert (verdict.kind, verdict.code) == (kind, code)


@in_module
async def test_a_redirect_is_not_followed() -> None:
    moved = b"HTTP/1.1 307 Moved\r\nLocation: /v1/other\r\nContent-Length: 0\r\n\r\n"
    async with carrier(fixed(moved)) as (provider, server):
        assert (await verdicts(provider, [message()]))[0].kind == "temporary"
    assert len(server.heads) == 1


@in_module
async def test_a_carrier_that_is_away_fails_for_now() -> None:
    async with serving(fixed(TAKEN)) as server:
        port = server.port
    async with provider_with(settings(url=f"http://127.0.0.1:{port}")) as provider:
        (verdict,) = await verdicts(provider, [message()])
    assert (verdict.kind, verdict.code, verdict.latency_us) == ("temporary", "refused", 0)


@in_module
async def test_an_id_may_stand_in_a_header() -> None:
    answer = b"HTTP/1.1 202 OK\r\nX-Message-ID: h-1\r\nX-Other: 2\r\nContent-Length: 0\r\n\r\n"
    async with carrier(fixed(answer), answer={"id": "header:x-message-id"}) as (provider, _):
        found = await verdicts(provider, [message(n) for n in range(5)])
    assert {(v.kind, v.provider_message_id) for v in found} == {("accepted", "h-1")}


@in_module
async def test_a_message_that_no_header_can_carry_fails_for_good_and_nothing_is_sent() -> None:
    request = {"path": "/send", "headers": {"X-Text": "{text}"}}
    async with carrier(fixed(TAKEN), request=request) as (provider, server):
        (verdict,) = await verdicts(provider, [message(1, "a\r\nX-Injected: 1")])
    assert (verdict.kind, verdict.code) == ("permanent", "unencodable")
    assert server.heads == []


@in_module
async def test_after_retry_after_messages_go_out_again() -> None:
    answers = iter([b"HTTP/1.1 429 Slow\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", TAKEN, TAKEN])

    async def script(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return next(answers)

    async with carrier(script) as (provider, server):
        assert (await verdicts(provider, [message()]))[0].kind == "throttled"
        async with asyncio.timeout(60):
            while (verdict := (await verdicts(provider, [message()]))[0]).kind == "throttled":
                assert (verdict.code, len(server.heads)) == ("retry-after", 1)
                await asyncio.sleep(0.05)
        assert (verdict.kind, len(server.heads)) == ("accepted", 2)


@in_module
@pytest.mark.parametrize("value", [b"soon", b"-1", b"Wed, 21 Oct 2015 07:28:00 GMT", b"9999999999999"])
async def test_a_retry_after_that_is_no_number_of_seconds_holds_nothing_up(value: bytes) -> None:
    busy = b"HTTP/1.1 429 Slow\r\nRetry-After: %b\r\nContent-Length: 0\r\n\r\n" % value
    async with carrier(fixed(busy)) as (provider, server):
        assert [(await verdicts(provider, [message()]))[0].code for _ in range(2)] == ["429", "429"]
    assert len(server.heads) == 2


@in_module
async def test_stopping_gives_every_message_its_verdict() -> None:
    async with carrier(hang, connections_max=2, timeout_s=0.4) as (provider, server):
        waiting = asyncio.create_task(verdicts(provider, [message(n) for n in range(6)]))
        await until(lambda: len(server.bodies) == 2)
        await provider.stop()
        found = await asyncio.wait_for(waiting, 60)
    assert sorted(v.kind for v in found) == ["temporary"] * 4 + ["unknown"] * 2


# -- the secrets' files, TLS


@in_module
async def test_a_password_stands_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\nand a second line\n")
    request = {"path": "/send", "auth": "bearer"}
    async with carrier(fixed(TAKEN), request=request, password_file=str(tmp_path / "secret")) as (it, server):
        assert (await verdicts(it, [message()]))[0].kind == "accepted"
    assert b"\r\nAuthorization: Bearer s3cret\r\n" in server.heads[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that no system trusts, and its key."""
    directory = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", directory / "key", "-out", directory / "cert"],
        check=True, capture_output=True,
    )  # fmt: skip
    return directory


@in_module
@pytest.mark.parametrize("trusted", [True, False])
async def test_only_a_certificate_that_is_trusted_is_spoken_to(certificate: Path, trusted: bool) -> None:
    scripted = ScriptedServer(fixed(TAKEN))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert", certificate / "key")
    listener = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    ca_file = str(certificate / "cert") if trusted else ""
    try:
        async with provider_with(settings(url=f"https://127.0.0.1:{port}", tls_ca_file=ca_file)) as provider:
            (verdict,) = await verdicts(provider, [message()])
    finally:
        listener.close()
        scripted.close_all()
    assert (verdict.kind, verdict.code) == (("accepted", "201") if trusted else ("temporary", "tls"))


# -- overrides and mistakes


@in_module
async def test_what_is_given_lies_over_the_preset_key_by_key() -> None:
    given = {
        "preset": "generic",
        "request": {"path": "/sms", "fields": {"text": "{nothing?}", "body": "{text}", "deep": {"a": 1}}},
        "answer": {"id": "json:id", "temporary": {"code": ["busy"]}},
    }
    busy = b'HTTP/1.1 400 No\r\nContent-Length: 15\r\n\r\n{"code":"busy"}'
    async with carrier(fixed(busy), **given) as (provider, server):
        (verdict,) = await verdicts(provider, [message()])
    assert (verdict.kind, verdict.code) == ("temporary", "busy")
    sent = json.loads(server.bodies[0])
    assert server.heads[0].startswith(b"POST /v1/sms ")
    assert "text" not in sent
    assert (sent["body"], sent["deep"], sent["to"]) == (message().text, {"a": 1}, message().to)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"url": ""}, "url must be given: where the provider's API is."),
        ({"url": "carrier.example"}, "url must be http://HOST[:PORT][/PATH], or the same with https"),
        ({"url": "http://h/?a=b"}, "url must be http://HOST"),
        ({"preset": "nope"}, "preset must be one of generic, kannel, kavenegar, simulated, twilio, vonage"),
        ({"tls_ca_file": "/x"}, "tls_ca_file is of no use without https in the url"),
        (
            {"url": "https://h", "tls_ca_file": "/no/such"},
            "tls_ca_file: /no/such cannot be used: No such file",
        ),
        ({"url": "https://h", "tls_ca_file": __file__}, "tls_ca_file: "),
        ({"password_file": "/no/such"}, "password_file: /no/such cannot be read: No such file or directory."),
        ({"password": "a", "password_file": "/b"}, "password must be given once"),
        ({"password_file": "/dev/null"}, "password_file: the first line of /dev/null is empty."),
        ({"public_url": "https://e.org"}, "public_url is for receipts, so receipt_token must be given too."),
        (
            {"public_url": "e.org", "receipt_token": TOKEN, "receipt": {"id": "x"}},
            "public_url must be http://HOST",
        ),
        ({"receipt_token": "short"}, "receipt_token must be 16 to 128 letters, digits, '-' and '_'."),
        ({"receipt_token": TOKEN}, "receipt must say how receipts are read: there is a receipt_token."),
        ({"receipt_token": "a", "receipt_token_file": "/b"}, "receipt_token must be given once"),
        (
            {"request": {"fields": {"x": "{who}"}}},
            "request.fields.x: {who} is no placeholder; there are {to}",
        ),
        ({"request": {"mehtod": "GET"}}, "request.mehtod is not known; allowed are auth, body"),
        ({"answer": {"accepted": {"text": "(x+)+"}}}, "answer.accepted.text must be a regular expression"),
        ({"receipt": {"id": "id", "sate": "x"}}, "receipt.sate is not known; allowed are code, format, id"),
        ({"preset": "kannel"}, "request.fields.username has {username}, so username must be given"),
    ],
)
def test_every_mistake_is_found_when_the_provider_is_built(given: dict[str, Any], sentence: str) -> None:
    # A preset brings its own request and answer.
    own: dict[str, Any] = {"request": {}, "answer": {}} if "preset" in given else {}
    made = settings(**{**own, **given})
    with pytest.raises(ConfigError) as refused:
        build(made, Sink(), Problems())
    assert str(refused.value).startswith(f"providers.acme.{sentence}")
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_receipts_are_read_without_a_provider(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    table = {"id": "mid", "states": {"delivered": ["ok"]}, "reply": {"status": 202, "body": "<ok/>"}}
    reader = receipt_reader(settings(receipt=table, receipt_token_file=str(tmp_path / "token")))
    assert reader
    assert reader.token == TOKEN
    assert (reader.reply.status, reader.reply.body) == (202, "<ok/>")
    ((receipt,), _) = reader.read("GET", "mid=7&state=ok", "", b"", 17)
    assert (receipt.provider, receipt.provider_message_id, receipt.state, receipt.at_us) == (
        "acme", "7", "delivered", 17,
    )  # fmt: skip


def test_a_provider_may_have_no_receipts() -> None:
    assert receipt_reader(settings()) is None
