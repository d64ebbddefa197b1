"""What a subscriber wrote, as providers send it: alphabets, parts, numbers; and when it is acknowledged."""

from __future__ import annotations

import msgspec
import pytest

from engine.providers.settings import SmppSettings
from engine.providers.smpp.alphabet import packed, unpacked
from engine.providers.smpp.body import ShortMessage
from engine.providers.smpp.codes import Tag
from engine.providers.smpp.inbound import InboundReader

ALL = "Hello @ £ ÄÖÜ {[€]} ¿"


def settings(**given: object) -> SmppSettings:
    return SmppSettings(name="acme", host="127.0.0.1", system_id="me", **given)  # type: ignore[arg-type]


def message(octets: bytes, **given: object) -> ShortMessage:
    fields = {"source": "4915112345678", "source_ton": 1, "destination": "12345", "short_message": octets}
    return ShortMessage(**{**fields, **given})  # type: ignore[arg-type]


def text_of(made: SmppSettings, octets: bytes, **given: object) -> str:
    read = InboundReader(made).read(message(octets, **given), 7)
    assert read is not None
    return read[0].utf16.decode("utf-16-be")


@pytest.mark.parametrize(
    ("given", "octets", "coding", "text"),
    [
        ({}, unpacked(ALL), 0, ALL),
        ({"gsm7": "packed"}, packed(unpacked(ALL)), 0, ALL),
        ({"default_alphabet": "latin1"}, b"\xe9t\xe9", 0, "été"),
        ({}, b"\xe9t\xe9", 3, "été"),
        ({}, "سلام 😀".encode("utf-16-be"), 8, "سلام 😀"),
        ({"data_coding": {"ucs2": 24}}, "سلام".encode("utf-16-be"), 24, "سلام"),
        ({}, "да".encode("iso8859-5"), 6, "да"),
        ({}, b"", 0, ""),
        ({}, b"\xff\x80a", 0, "??a"),
    ],
)
def test_a_text_is_read_in_the_alphabet_that_it_is_written_in(
    given: dict[str, object], octets: bytes, coding: int, text: str
) -> None:

    made = msgspec.convert(
        {"name": "acme", "host": "h", "system_id": "me", "type": "smpp", **given}, SmppSettings
    )
    assert text_of(made, octets, data_coding=coding) == text
    payload = {int(Tag.message_payload): octets}
    assert text_of(made, b"", data_coding=coding, parameters=payload) == text


def test_a_part_says_which_it_is_by_its_header_or_by_parameters() -> None:
    reader, places = InboundReader(settings()), []
    one = message(b"\x05\x00\x03\x2a\x02\x01" + b"Hel", esm_class=0x40)
    two = message(b"\x06\x08\x04\x01\x2a\x03\x03" + b"lo", esm_class=0x40)
    sar = {int(Tag.sar_msg_ref_num): b"\0\5", int(Tag.sar_total_segments): b"\2"}
    three = message(b"x", parameters=sar | {int(Tag.sar_segment_seqnum): b"\2"})
    broken = message(b"\x05\x00\x03\x2a\x02\x03" + b"Hel", esm_class=0x40)
    short = message(b"\xff\x00", esm_class=0x40)
    for m in (one, two, three, broken, short):
        read = reader.read(m, 7)
        assert read is not None
        places.append((bool(read[0].reference), read[0].part, read[0].parts, read[0].utf16[1::2]))
    assert places == [
        (True, 1, 2, b"Hel"),
        (True, 3, 3, b"lo"),
        (True, 2, 2, b"x"),
        (False, 1, 1, b"Hel"),
        (False, 1, 1, b""),
    ]


def test_packed_septets_begin_behind_the_header() -> None:
    header = b"\x05\x00\x03\x2a\x02\x01"
    octets = header + packed(unpacked("part"), -8 * len(header) % 7)
    assert text_of(settings(gsm7="packed"), octets, esm_class=0x40).rstrip("\r") == "part"


@pytest.mark.parametrize(
    ("source", "ton", "sender"),
    [
        ("4915112345678", 1, "+4915112345678"),
        ("4915112345678", 0, "+4915112345678"),
        ("015112345678", 0, "015112345678"),
        ("9121234567", 2, "9121234567"),
        ("+4915112345678", 0, "+4915112345678"),
        ("12345", 0, "12345"),
        ("ACME", 5, "ACME"),
    ],
)
def test_a_sender_is_in_e164_where_its_form_is_known(source: str, ton: int, sender: str) -> None:
    read = InboundReader(settings()).read(
        message(b"x", source=source, source_ton=ton, destination="+1 2345"), 7
    )
    assert read is not None
    assert (read[0].sender, read[0].recipient) == (sender, "12345")


def test_the_same_octets_are_known_again_and_others_are_not() -> None:
    reader = InboundReader(settings())

    def digest(octets: bytes, at_us: int = 7, **given: object) -> bytes:
        read = reader.read(message(octets, **given), at_us)
        assert read is not None
        return read[1]

    assert digest(b"STOP") == digest(b"STOP", 8)
    found = {
        digest(b"STOP"),
        digest(b"STOP "),
        digest(b"STOP", source="4915112345679"),
        digest(b"STOP", data_coding=3),
    }
    assert len(found) == 4
    assert reader.read(message(b"x", esm_class=0b0001_0000), 7) is None, "an acknowledgement by hand"
