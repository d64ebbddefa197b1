"""The preset "kannel" against Kannel itself: what its SMSC is given, and the receipts it sends.

Needs Debian's packages kannel and kannel-extras; without them these tests are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from urllib.parse import unquote_to_bytes

import pytest

from engine.intake.segments import measure
from engine.providers import build
from engine.providers.problems import Problems
from engine.providers.settings import HttpSettings
from engine.receipts.records import Receipt
from engine.records import Encoding, Message, Verdict
from tests.providers.carrier import TOKEN, message, taking_receipts, verdicts
from tests.providers.http.kannel import MISSING, Kannel, running_kannel
from tests.providers.sink import Sink

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"{' and '.join(MISSING)} not found: apt-get install kannel kannel-extras",
    ),
]

NUMBERS = count(1)


@pytest.fixture(scope="module")
def kannel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kannel]:
    with running_kannel(tmp_path_factory.mktemp("kannel")) as running:
        yield running


async def sent(
    kannel: Kannel, messages: list[Message], enough: Callable[[list[Receipt]], bool], password: str = "secret"
) -> tuple[list[Verdict], list[Receipt]]:
    """The verdicts, and the receipts when there are enough."""

    def settings(public_url: str) -> HttpSettings:
        return HttpSettings(
            name="kannel", preset="kannel", url=kannel.url, username="tester", password=password,
            public_url=public_url, receipt_token=TOKEN,
        )  # fmt: skip

    async with taking_receipts(settings) as (made, address, _):
        provider = build(made, Sink(), Problems())
        await provider.start()
        try:
            given = await verdicts(provider, messages)
            receipts = await address.until(enough)
        finally:
            await provider.stop()
        assert address.refused == []
        return given, receipts


def final(*messages: Message) -> Callable[[list[Receipt]], bool]:
    """Each of these messages is delivered, and taken by the SMSC."""
    wanted = {(one.id, state) for one in messages for state in ("delivered", "pending")}
    return lambda receipts: wanted <= {(r.message_id, r.state) for r in receipts}


async def reached(kannel: Kannel, to: str, segments: int = 1) -> list[str]:
    """What has reached the SMSC for a recipient, once it is so many segments."""
    async with asyncio.timeout(60):
        while True:
            found = [one for one in kannel.delivered() if one.split(" ")[1] == to]
            if len(found) >= segments:
                return found
            await asyncio.sleep(0.02)  # another process writes the file that is read here


def fresh(text: str, *, encoding: Encoding = "GSM-7", segments: int = 1) -> Message:
    """A message that no test has sent yet."""
    number = next(NUMBERS)
    return message(number, text, to=f"+98912{number:07}", encoding=encoding, segments=segments)


async def test_a_text_of_the_gsm_alphabet_arrives_and_its_receipts_come_back(kannel: Kannel) -> None:
    one = fresh('Code 100% "à" & 123=456 + {€} @£¥ ~')
    given, receipts = await sent(kannel, [one], final(one))
    assert [(v.kind, v.provider_message_id, v.code) for v in given] == [("accepted", one.id, "0")]
    assert await reached(kannel, one.to) == [f"Demo {one.to} text {one.text}"]
    codes = {(r.state, r.code) for r in receipts}
    assert ("delivered", "1") in codes
    assert ("pending", "8 ACK/") in codes
    assert {(r.provider, r.message_id, r.to) for r in receipts} == {("kannel", one.id, one.to.lstrip("+"))}


async def test_another_script_arrives_as_ucs_2(kannel: Kannel) -> None:
    one = fresh("کد شما ۱۲۳۴ 😀", encoding="UCS-2")
    given, _ = await sent(kannel, [one], final(one))
    assert given[0].kind == "accepted"
    (arrived,) = await reached(kannel, one.to)
    _, _, kind, data = arrived.split(" ", 3)
    assert kind == "ucs-2"
    assert unquote_to_bytes(data.replace("+", "%20")).decode("utf-16-be") == one.text


@pytest.mark.parametrize(
    ("text", "encoding"), [("0123456789" * 40, "GSM-7"), ("شماره ۱۲۳۴ و " * 12, "UCS-2")]
)
async def test_a_long_text_arrives_in_segments(kannel: Kannel, text: str, encoding: Encoding) -> None:
    one = fresh(text, encoding=encoding, segments=3)
    assert measure(text).segments == 3
    await sent(kannel, [one], final(one))
    parts = [arrived.split(" ", 5) for arrived in await reached(kannel, one.to, 3)]
    # 3GPP TS 23.040, 9.2.3.24.1: concatenation, reference, three segments, their numbers.
    headers = [unquote_to_bytes(part[3]) for part in parts]
    assert [header[:3] + header[4:] for header in headers] == [b"\5\0\3\3" + bytes([n]) for n in (1, 2, 3)]
    data = b"".join(unquote_to_bytes(part[5].replace("+", "%20")) for part in parts)
    assert data.decode("utf-16-be" if encoding == "UCS-2" else "ascii") == text


async def test_many_messages_each_have_their_own_receipts(kannel: Kannel) -> None:
    many = [fresh(f"number {n}") for n in range(100)]
    given, receipts = await sent(kannel, many, final(*many))
    assert {v.kind for v in given} == {"accepted"}
    assert {(r.message_id, r.to) for r in receipts} == {(one.id, one.to.lstrip("+")) for one in many}
    assert len([r for r in receipts if r.state == "delivered"]) == len(many)


@pytest.mark.parametrize(
    ("one", "password", "kind", "code"),
    [
        (message(1), "wrong", "temporary", "Authorization failed for sendsms"),
        (message(1, to=""), "secret", "permanent", "Empty receiver number not allowed, rejected"),
        (message(1, sender=""), "secret", "permanent", "Sender missing and no global set, rejected"),
    ],
)
async def test_what_kannel_refuses(kannel: Kannel, one: Message, password: str, kind: str, code: str) -> None:
    given, _ = await sent(kannel, [one], lambda receipts: True, password)
    assert [(v.kind, v.code) for v in given] == [(kind, code)]
