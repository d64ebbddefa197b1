"""Each preset against a server that answers as the vendor's documentation says."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, urlencode

import aiohttp
import pytest

from engine.errors import ConfigError
from engine.providers import build, presets
from engine.providers.problems import Problems
from engine.providers.settings import HttpSettings
from engine.records import Message, Verdict
from supervisor.simulator import start_simulator
from tests.providers.carrier import (
    TOKEN,
    Asked,
    CarrierServer,
    ReceiptAddress,
    Reply,
    Script,
    answering,
    message,
    taking_receipts,
    verdicts,
)
from tests.providers.sink import Sink

in_module = pytest.mark.asyncio(loop_scope="module")

ID = message().id


class Carrier(NamedTuple):
    """A preset's provider with both its ends."""

    send: Callable[..., Any]
    server: CarrierServer
    receipts: ReceiptAddress
    receipts_server: CarrierServer

    @property
    def asked(self) -> Asked:
        return self.server.asked[-1]

    async def one(self, *text: str, **more: Any) -> Verdict:
        found: list[Verdict] = await self.send([message(1, *text, **more)])
        return found[0]

    async def hears(self, method: str, url: str, **request: Any) -> int:
        """The carrier sends a receipt; how it is answered."""
        async with aiohttp.ClientSession() as session, session.request(method, url, **request) as answer:
            await answer.read()
            return answer.status


@asynccontextmanager
async def carrier(preset: str, script: Script, **settings: Any) -> AsyncIterator[Carrier]:
    async with answering(script) as server:

        def made(public_url: str) -> HttpSettings:
            return HttpSettings(
                name="acme", preset=preset, url=server.url, public_url=public_url, receipt_token=TOKEN,
                username="user", password="pass", **settings,
            )  # fmt: skip

        async with taking_receipts(made) as (given, address, address_server):
            provider = build(given, Sink(), Problems())
            await provider.start()
            try:

                async def send(messages: list[Message]) -> list[Verdict]:
                    return await verdicts(provider, messages)

                yield Carrier(send, server, address, address_server)
            finally:
                await provider.stop()


def short(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.kind, verdict.provider_message_id, verdict.code


def json_reply(status: int, value: object) -> Reply:
    return Reply(status, json.dumps(value).encode())


def sequence(*answers: Reply) -> Script:
    left = iter(answers)
    return lambda asked: next(left)


def test_every_preset_is_installed_links_its_documentation_and_has_nothing_unknown() -> None:
    assert presets.names() == ["generic", "kannel", "kavenegar", "simulated", "twilio", "vonage"]
    for name in presets.names():
        assert presets.load(name, "preset").keys() <= {"url", "request", "answer", "receipt", "inbound"}
        built = build(
            HttpSettings(name="p", preset=name, url="http://h", username="u", password="p"),
            Sink(),
            Problems(),
        )
        assert built.name == "p"


def test_a_preset_that_there_is_not() -> None:
    with pytest.raises(
        ConfigError, match=r"^providers\.p\.preset must be one of generic, kannel, .*'clickatell'"
    ):
        build(HttpSettings(name="p", preset="clickatell"), Sink(), Problems())


# -- generic


@in_module
async def test_generic() -> None:
    def script(asked: Asked) -> Reply:
        to = json.loads(asked.body)["to"]
        return json_reply(422, {"code": "bad_number"}) if to == "+1" else json_reply(201, {"id": "m-1"})

    async with carrier("generic", script) as it:
        assert short(await it.one()) == ("accepted", "m-1", "201")
        assert (it.asked.method, it.asked.target) == ("POST", "/messages")
        assert it.asked.headers["authorization"] == "Bearer pass"
        body = json.loads(it.asked.body)
        url = body.pop("receipt_url")
        assert 3500 < body.pop("validity") <= 3600
        assert body == {
            "id": ID,
            "to": "+989120000000",
            "from": "Demo",
            "text": 'Your "code" is\n123456 €',
            "segments": 1,
            "encoding": "GSM-7",
        }
        assert short(await it.one(to="+1")) == ("permanent", "", "bad_number")
        receipts = [
            {"id": "m-1", "state": "delivered", "to": "989120000000"},
            {"id": "m-2", "state": "expired"},
        ]
        assert await it.hears("POST", url, json=receipts) == 200
        assert [(r.provider, r.provider_message_id, r.state, r.to) for r in it.receipts.receipts] == [
            ("acme", "m-1", "delivered", "989120000000"), ("acme", "m-2", "undelivered", ""),
        ]  # fmt: skip
        assert await it.hears("POST", url + "x", json=receipts) == 404


# -- Kannel; the real one stands in test_kannel.py


@pytest.mark.parametrize(
    ("status", "text", "verdict"),
    [
        (202, "0: Accepted for delivery", ("accepted", ID, "0")),
        (202, "3: Queued for later delivery", ("accepted", ID, "3")),
        (202, "Sent.", ("accepted", ID, "Sent")),
        (403, "Not routable. Do not try again.", ("permanent", "", "Not routable")),
        (403, "Authorization failed for sendsms", ("temporary", "", "Authorization failed for sendsms")),
        (503, "Temporal failure, try again later.", ("temporary", "", "Temporal failure, try again later")),
        (400, "Missing receiver number, rejected", ("permanent", "", "Missing receiver number, rejected")),
        (200, "<html>Welcome</html>", ("unknown", "", "200")),
        (404, "<html>Not here</html>", ("temporary", "", "404")),
        (403, "", ("temporary", "", "403")),
    ],
)
@in_module
async def test_kannels_answers(status: int, text: str, verdict: tuple[str, str, str]) -> None:
    async with carrier("kannel", lambda asked: Reply(status, text.encode(), "text/html")) as it:
        assert short(await it.one()) == verdict


@in_module
async def test_kannel_is_asked_for_receipts_and_sends_them() -> None:
    ok = Reply(202, b"0: Accepted for delivery", "text/html")
    async with carrier("kannel", lambda asked: ok) as it:
        assert (await it.one("سلام", encoding="UCS-2", sender="")).kind == "accepted"
        assert (it.asked.method, it.asked.path, it.asked.body) == ("GET", b"/cgi-bin/sendsms", b"")
        asked = dict(parse_qsl(it.asked.query))
        url = asked.pop("dlr-url")
        assert asked == {
            "username": "user", "password": "pass", "to": "+989120000000", "text": "سلام", "charset": "UTF-8",
            "coding": "2", "validity": "60", "dlr-mask": "31",
        }  # fmt: skip
        for state in (8, 4, 1, 2, 16):
            filled = url.replace("%d", str(state)).replace("%p", "%2B989120000000").replace("%A", "ACK%2F")
            assert await it.hears("GET", filled) == 200
        assert [(r.state, r.code) for r in it.receipts.receipts] == [
            ("pending", "8 ACK/"), ("pending", "4 ACK/"), ("delivered", "1 ACK/"), ("undelivered", "2 ACK/"),
            ("undelivered", "16 ACK/"),
        ]  # fmt: skip
        assert {(r.message_id, r.to) for r in it.receipts.receipts} == {(ID, "989120000000")}


# -- Twilio: bodies as in https://www.twilio.com/docs/messaging/api/message-resource


TWILIO_OK = {
    "account_sid": "user",
    "api_version": "2010-04-01",
    "body": "x",
    "error_code": None,
    "error_message": None,
    "num_segments": "1",
    "sid": "SM00000000000000000000000000000001",
    "status": "queued",
    "uri": "/x.json",
}


def twilio_error(status: int, code: int, headers: str = "") -> Reply:
    value = {"code": code, "message": "No.", "more_info": f"https://www.twilio.com/docs/errors/{code}",
             "status": status}  # fmt: skip
    return Reply(status, json.dumps(value).encode(), headers=headers)


@in_module
async def test_twilio() -> None:
    answers = (
        json_reply(201, TWILIO_OK),
        twilio_error(400, 21610),
        twilio_error(401, 20003),
        twilio_error(500, 20500),
        twilio_error(429, 20429),
        Reply(200, b"<html>captive portal</html>", "text/html"),
    )
    async with carrier("twilio", sequence(*answers)) as it:
        assert short(await it.one("a+b & é")) == ("accepted", TWILIO_OK["sid"], "201")
        assert (it.asked.method, it.asked.target) == ("POST", "/2010-04-01/Accounts/user/Messages.json")
        assert it.asked.headers["authorization"] == "Basic " + base64.b64encode(b"user:pass").decode()
        assert it.asked.headers["content-type"] == "application/x-www-form-urlencoded"
        form = dict(parse_qsl(it.asked.body.decode()))
        callback = form.pop("StatusCallback")
        assert 3500 < int(form.pop("ValidityPeriod")) <= 3600
        assert form == {"To": "+989120000000", "From": "Demo", "Body": "a+b & é"}
        assert [short(await it.one()) for _ in range(5)] == [
            ("permanent", "", "21610"), ("temporary", "", "20003"), ("temporary", "", "20500"),
            ("throttled", "", "20429"), ("unknown", "", "no-id"),
        ]  # fmt: skip

        def status(state: str, **more: str) -> dict[str, str]:
            return {
                "MessageSid": "SM1",
                "SmsSid": "SM1",
                "AccountSid": "user",
                "From": "Demo",
                "ApiVersion": "x",
                "To": "+989120000000",
                "MessageStatus": state,
                "SmsStatus": state,
                **more,
            }

        assert await it.hears("POST", callback, data=status("sent")) == 200
        assert await it.hears("POST", callback, data=status("delivered")) == 200
        assert await it.hears("POST", callback, data=status("undelivered", ErrorCode="30003")) == 200
        assert [(r.state, r.code) for r in it.receipts.receipts] == [
            ("pending", "sent"), ("delivered", "delivered"), ("undelivered", "undelivered 30003"),
        ]  # fmt: skip
        first = it.receipts.receipts[0]
        assert (first.provider_message_id, first.message_id, first.to) == ("SM1", ID, "989120000000")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, 21611, "throttled"), (400, 14107, "throttled"), (429, 63017, "throttled"),
        (403, 10001, "temporary"), (401, 20003, "temporary"), (403, 20005, "temporary"),
        (403, 20008, "temporary"), (403, 20403, "temporary"), (404, 20404, "temporary"),
        (400, 21608, "temporary"), (503, 21730, "temporary"), (400, 30002, "temporary"),
        (400, 63038, "temporary"), (503, 20503, "temporary"),
        (400, 21211, "permanent"), (400, 21614, "permanent"), (403, 21408, "permanent"),
        (400, 21617, "permanent"), (400, 21606, "permanent"),
    ],
)  # fmt: skip
@in_module
async def test_twilios_codes(status: int, code: int, kind: str) -> None:
    async with carrier("twilio", sequence(twilio_error(status, code))) as it:
        assert short(await it.one()) == (kind, "", str(code))


@pytest.mark.parametrize("status", [400, 403, 404, 405, 415, 421])
@pytest.mark.parametrize("preset", ["generic", "kannel", "kavenegar", "simulated", "twilio", "vonage"])
@in_module
async def test_a_firewalls_page_ends_no_message(preset: str, status: int) -> None:
    page = b"<html>\r\n<head><title>Forbidden</title></head></html>"
    async with carrier(preset, sequence(Reply(status, page, "text/html"), Reply(status))) as it:
        assert [short(await it.one()) for _ in range(2)] == [("temporary", "", str(status))] * 2


@in_module
async def test_twilio_asks_to_be_left_alone_for_a_while() -> None:
    busy = twilio_error(429, 20429, headers="Retry-After: 30\r\n")
    async with carrier("twilio", sequence(busy)) as it:
        assert short(await it.one()) == ("throttled", "", "20429")
        assert short(await it.one()) == ("throttled", "", "retry-after")
        assert len(it.server.asked) == 1


@in_module
async def test_twilio_with_a_messaging_service_instead_of_a_sender() -> None:
    fields = {"fields": {"From": "{nothing?}", "MessagingServiceSid": "MG1"}}
    async with carrier("twilio", sequence(json_reply(201, TWILIO_OK)), request=fields) as it:
        assert (await it.one()).kind == "accepted"
        form = parse_qs(it.asked.body.decode())
        assert form["MessagingServiceSid"] == ["MG1"]
        assert "From" not in form
        assert form["To"] == ["+989120000000"]


# -- Vonage: bodies as in https://developer.vonage.com/en/api/sms


def vonage(*statuses: str) -> Reply:
    messages = [
        {"to": "989120000000", "message-id": f"0A{n}", "status": status, "remaining-balance": "3.14"}
        if status == "0" else {"status": status, "error-text": "No."}
        for n, status in enumerate(statuses)
    ]  # fmt: skip
    return json_reply(200, {"message-count": str(len(statuses)), "messages": messages})


@in_module
async def test_vonage() -> None:
    answers = (
        vonage("0"),
        vonage("0", "0"),
        vonage("1"),
        vonage("0", "1"),
        vonage("5"),
        vonage("9"),
        vonage("7"),
        Reply(200, b"", "text/html"),
    )
    async with carrier("vonage", sequence(*answers)) as it:
        assert short(await it.one()) == ("accepted", "0A0", "0")
        assert (it.asked.method, it.asked.target) == ("POST", "/sms/json")
        form = dict(parse_qsl(it.asked.body.decode()))
        callback = form.pop("callback")
        assert form == {
            "api_key": "user", "api_secret": "pass", "from": "Demo", "to": "989120000000", "type": "text",
            "text": 'Your "code" is\n123456 €', "client-ref": ID,
        }  # fmt: skip
        assert short(await it.one("سلام", encoding="UCS-2", segments=2)) == ("accepted", "0A0,0A1", "0")
        assert dict(parse_qsl(it.asked.body.decode()))["type"] == "unicode"
        assert [short(await it.one()) for _ in range(6)] == [
            ("throttled", "", "1"), ("throttled", "", "0,1"), ("temporary", "", "5"), ("temporary", "", "9"),
            ("permanent", "", "7"), ("unknown", "", "200"),
        ]  # fmt: skip
        receipt = {"msisdn": "989120000000", "to": "Demo", "network-code": "43211", "messageId": "0A0",
                   "price": "0.03", "status": "delivered", "scts": "2011021820", "err-code": "0",
                   "client-ref": ID, "message-timestamp": "2020-11-02 18:20:00"}  # fmt: skip
        assert await it.hears("GET", f"{callback}?{urlencode(receipt)}") == 200
        assert await it.hears("POST", callback, data={**receipt, "status": "failed", "err-code": "6"}) == 200
        assert await it.hears("POST", callback, json={**receipt, "status": "buffered"}) == 200
        assert [(r.state, r.code) for r in it.receipts.receipts] == [
            ("delivered", "delivered 0"), ("undelivered", "failed 6"), ("pending", "buffered 0"),
        ]  # fmt: skip
        assert {(r.provider_message_id, r.message_id, r.to) for r in it.receipts.receipts} == {
            ("0A0", ID, "989120000000")
        }


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (("1", "10"), "throttled"),
        (("4", "5", "8", "9", "11", "13", "14", "29", "32"), "temporary"),
        (("2", "3", "6", "7", "12", "15", "22", "23", "33"), "permanent"),
    ],
)
@in_module
async def test_vonages_codes(codes: tuple[str, ...], kind: str) -> None:
    async with carrier("vonage", sequence(*(vonage(code) for code in codes))) as it:
        assert [short(await it.one()) for _ in codes] == [(kind, "", code) for code in codes]


# -- Kavenegar: bodies as in https://kavenegar.com/rest.html


def kavenegar(status: int) -> Reply:
    entries = [
        {
            "messageid": 8792343,
            "message": "x",
            "status": 1,
            "statustext": "در صف ارسال",
            "sender": "1000",
            "receptor": "09120000000",
            "date": 1356619709,
            "cost": 120,
        }
    ]
    value = {"return": {"status": status, "message": "…"}, "entries": entries if status == 200 else None}
    return json_reply(status, value)


@in_module
async def test_kavenegar() -> None:
    answers = (kavenegar(200), kavenegar(411), kavenegar(418), kavenegar(409), kavenegar(401), kavenegar(200))
    async with carrier("kavenegar", sequence(*answers)) as it:
        assert short(await it.one()) == ("accepted", "8792343", "200")
        assert (it.asked.method, it.asked.target) == ("POST", "/v1/pass/sms/send.json")
        first = dict(parse_qsl(it.asked.body.decode()))
        assert first == {
            "receptor": "09120000000",
            "sender": "Demo",
            "message": 'Your "code" is\n123456 €',
            "localid": "1",
        }
        assert [short(await it.one()) for _ in range(4)] == [
            ("permanent", "", "411"),
            ("temporary", "", "418"),
            ("temporary", "", "409"),
            ("temporary", "", "401"),
        ]
        assert (await it.one(to="+447700900000", sender="")).kind == "accepted"
        assert dict(parse_qsl(it.asked.body.decode()))["receptor"] == "00447700900000"
        url = f"{it.receipts_server.url}/v1/providers/acme/receipts/{TOKEN}"
        assert await it.hears("POST", url, data={"messageid": "8792343", "status": "10"}) == 200
        assert await it.hears("GET", f"{url}?messageid=8792344&status=11") == 200
        assert [(r.provider_message_id, r.state) for r in it.receipts.receipts] == [
            ("8792343", "delivered"), ("8792344", "undelivered"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ((429, 451), "throttled"),
        ((401, 402, 403, 404, 405, 407, 409, 416, 418, 426, 427, 501, 503), "temporary"),
        ((400, 406, 411, 412, 413, 414, 417, 419, 420, 422, 424, 431, 432), "permanent"),
    ],
)
@in_module
async def test_kavenegars_codes(codes: tuple[int, ...], kind: str) -> None:
    async with carrier("kavenegar", sequence(*(kavenegar(code) for code in codes))) as it:
        assert [short(await it.one()) for _ in codes] == [(kind, "", str(code)) for code in codes]


# -- the simulator


@in_module
async def test_simulated_against_the_simulator_itself() -> None:
    simulator = await asyncio.to_thread(start_simulator)
    try:
        provider = build(HttpSettings(name="sim", preset="simulated", url=simulator.url), Sink(), Problems())
        await provider.start()
        found = await verdicts(provider, [message(n) for n in range(200)])
        await provider.stop()
        assert {(v.kind, v.code) for v in found} == {("accepted", "200")}
        assert len({v.provider_message_id for v in found}) == 200
    finally:
        await asyncio.to_thread(simulator.stop)
