"""What recipients write, as providers bring it: read or refused, kept as a record, put together and routed.

The first octet chooses: below 8 a deliver_sm, with as many seeds of settings; else a request, whose preset,
method and content type it says. Then comes the body; of a request the query, a line feed, and the body.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from engine.inbound.assembly import TEXT_CHARACTERS_MAX, assemble
from engine.inbound.records import InboundPart, InboundRoute, KeptPart
from engine.inbound.routes import RouteTable
from engine.inbound.settings import DEFAULTS
from engine.inbound.words import WordList
from engine.providers import inbound_readers
from engine.providers.http.description import InboundReader as HttpReader
from engine.providers.settings import HttpSettings, SmppSettings
from engine.providers.smpp.body import ShortMessage, decode_short_message, encode_short_message
from engine.providers.smpp.codes import Tag
from engine.providers.smpp.inbound import InboundReader
from engine.providers.smpp.pdu import WrongPdu
from engine.stream_id import StreamId
from tests.fuzz.target import Check, Target, bench

_ALPHABETS: tuple[dict[str, str], ...] = (
    {},
    {"gsm7": "packed"},
    {"default_alphabet": "latin1"},
    {"default_alphabet": "ascii"},
)
_SMPP = [
    InboundReader(SmppSettings(name="acme", host="h", system_id="me", **given))  # type: ignore[arg-type]
    for given in _ALPHABETS
]
_PUSHED: list[HttpReader] = list(
    inbound_readers(
        HttpSettings(name=preset, preset=preset, url="http://127.0.0.1:9", receipt_token="0123456789abcdef")
        for preset in ("generic", "twilio", "simulated")
    ).values()
)
_ROUTES = RouteTable([InboundRoute(number="12345", keyword=word, organisation_id=7) for word in ("", "A")])
_WORDS = WordList(DEFAULTS)
_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.Decoder(InboundPart).decode
WORDS = (
    b"STOP", b"START", b"\x05\x00\x03\x2a\x02\x01", b"\x06\x08\x04\x01\x2a\x02\x02", b"\xd8\x3d", b"\xde\x00",
    b'"from"', b'"to"', b'"text"', b"From=", b"To=", b"Body=", b"MessageSid=", b"\x1b", b"+4915112345678",
)  # fmt: skip


def seeds() -> list[bytes]:
    parts = [
        ShortMessage(source="4915112345678", source_ton=1, destination="12345", short_message=b"STOP"),
        ShortMessage(esm_class=0x40, short_message=b"\x05\x00\x03\x2a\x02\x01\x1bHel\x00", source="x"),
        ShortMessage(data_coding=8, short_message="سلام 😀".encode("utf-16-be")[:-1]),
        ShortMessage(
            parameters={
                Tag.message_payload: b"hello",
                Tag.sar_msg_ref_num: b"\0\7",
                Tag.sar_total_segments: b"\2",
                Tag.sar_segment_seqnum: b"\1",
            }
        ),
    ]
    found = [bytes((number,)) + encode_short_message(part) for number, part in enumerate(parts)]
    for body in (
        b'\n{"id": "1", "from": "+4915112345678", "to": "12345", "text": "STOP A"}',
        b"\nMessageSid=SM1&From=%2B49151&To=%2B1&Body=Gr%C3%BC%C3%9Fe",
        b"from=1&to=2&text=3\n",
        b'\n[{"from": 1, "to": 2, "text": null}, {"from": "a", "to": "b", "text": "\\ud83d"}]',
    ):
        found += [bytes((8 + number,)) + body for number in range(3)]
    return found


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    with bench() as on:
        yield lambda data: on.look(partial(check, data))


def check(data: bytes) -> None:
    """Nothing raises, what was read can be kept and read again, and becomes one text that can be shown."""
    kind, rest = (data[0], data[1:]) if data else (0, b"")
    parts = _smpp(kind, rest) if kind < 8 else _pushed(kind, rest)
    for part, digest, again_s in parts:
        assert len(digest) == 16
        assert again_s > 0
        assert _decode(_encode(part)) == part
        kept = [KeptPart(StreamId(n, 0), part) for n in range(2)]
        for message in assemble(kept, part.at_us + 10, 10):
            assert len(message.text) <= TEXT_CHARACTERS_MAX
            message.text.encode()
            wish = _WORDS.find(message.text)
            _ROUTES.find(part.recipient, message.text)
            assert wish.action or _ROUTES.meant(part.recipient, wish.about) is not None


def _smpp(kind: int, body: bytes) -> Sequence[tuple[InboundPart, bytes, int]]:
    try:
        read = _SMPP[kind % len(_SMPP)].read(decode_short_message(body), 77)
    except WrongPdu:
        return ()
    return () if read is None else (read,)


def _pushed(kind: int, rest: bytes) -> Sequence[tuple[InboundPart, bytes, int]]:
    query, _, body = rest.partition(b"\n")
    method = "GET" if kind & 0x40 else "POST"
    content_type = "application/json" if kind & 0x20 else ""
    reader = _PUSHED[kind % len(_PUSHED)]
    read = reader.read(method, query.decode(errors="replace"), content_type, body, 77)
    assert (
        read.parts or read.refusal is not None or not body or method == "GET" or body.strip() in (b"[]", b"")
    )
    return read.parts


TARGET = Target("inbound_message", seeds, opened, WORDS)
