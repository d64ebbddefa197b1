"""A message leaves as the segments it was priced by, and whoever joins them has its text again."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pytest
import smsutil
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.ids import MessageIds
from engine.intake.segments import BASIC, EXTENSION, measure, split
from engine.providers.settings import DataCodings, SmppSettings
from engine.providers.smpp.alphabet import packed, unpacked
from engine.providers.smpp.body import ShortMessage, decode_short_message, encode_short_message
from engine.providers.smpp.codes import Tag
from engine.providers.smpp.submit import SubmitEncoder, concatenation_reference
from engine.records import Message

NOW_US = 1_795_335_960_000_000


def texts(characters: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Of one segment and of several, with what must stay together at every place."""
    pieces = st.text(characters, min_size=1, max_size=60)
    return st.builds(lambda piece, times, end: piece * times + end, pieces, st.integers(1, 12), pieces)


GSM_TEXTS = texts(st.sampled_from(BASIC + EXTENSION * 3))
UCS_TEXTS = texts(st.one_of(st.sampled_from("aé😀تا€["), st.characters(exclude_categories=["Cs"]))).filter(
    lambda text: measure(text).encoding == "UCS-2"
)
TEXTS = st.one_of(GSM_TEXTS, UCS_TEXTS)
Gsm7 = Literal["unpacked", "packed", "latin1"]
GSM7S: list[Gsm7] = list(get_args(Gsm7))


def settings(**values: Any) -> SmppSettings:
    return SmppSettings(**{"name": "carrier", "host": "localhost", "system_id": "us", **values})


def message(text: str = "Hello", **values: Any) -> Message:
    measured = measure(text)
    return Message(
        **{
            "id": "01930000-0000-7000-8000-00000000abcd",
            "organisation_id": 7,
            "to": "+989121234567",
            "text": text,
            "sender": "Acme",
            "encoding": measured.encoding,
            "segments": measured.segments,
            "units": measured.segments,
            "accepted_at_us": NOW_US,
            "expires_at_us": NOW_US + 300_000_000,
            **values,
        }
    )


def sent(of: Message, now_us: int = NOW_US, **values: Any) -> list[ShortMessage]:
    return [decode_short_message(body) for body in SubmitEncoder(settings(**values)).bodies(of, now_us)]


def one(of: Message, now_us: int = NOW_US, **values: Any) -> ShortMessage:
    [body] = sent(of, now_us, **values)
    return body


def septets(octets: bytes, fill_bits: int = 0) -> bytes:
    """Unpacked again, one at a time, as many as the octets have room for."""
    bits = int.from_bytes(octets, "little") >> fill_bits
    return bytes(bits >> 7 * n & 0x7F for n in range((8 * len(octets) - fill_bits) // 7))


def read_back(segment: ShortMessage, gsm7: Gsm7) -> str:
    """The segment's text without any header, read by another's decoder."""
    octets = segment.short_message or segment.parameters[Tag.message_payload]
    header = 1 + octets[0] if segment.esm_class & 0x40 else 0
    octets = octets[header:]
    match segment.data_coding:
        case 8:
            return octets.decode("utf-16-be")
        case 3:
            return octets.decode("latin-1")
        case 0:
            octets = septets(octets, -8 * header % 7) if gsm7 == "packed" else octets
            return str(smsutil.decode(octets, encoding="gsm0338"))
        case other:
            raise AssertionError(other)


# -- the text


@pytest.mark.parametrize("gsm7", GSM7S)
@pytest.mark.parametrize("concatenation", ["udh", "sar"])
@given(text=TEXTS)
def test_segments_are_those_the_message_was_priced_by(gsm7: Gsm7, concatenation: str, text: str) -> None:
    segments = sent(message(text), gsm7=gsm7, concatenation=concatenation)
    assert len(segments) == measure(text).segments
    for segment, part in zip(segments, split(text), strict=True):
        # Where septets leave seven bits of an octet they hold a carriage return.
        filled = ("", "\r") if gsm7 == "packed" and segment.data_coding == 0 else ("",)
        assert read_back(segment, gsm7) in [part + end for end in filled]
    assert len({segment.data_coding for segment in segments}) == 1


@pytest.mark.parametrize("gsm7", GSM7S)
@given(text=TEXTS)
def test_a_payload_carries_the_whole_text(gsm7: Gsm7, text: str) -> None:
    whole = one(message(text), gsm7=gsm7, concatenation="payload")
    # Packed text may end in a CR more, which fills its last octet.
    assert read_back(whole, gsm7).rstrip("\r") == text.rstrip("\r")
    assert whole.esm_class == 0
    assert (Tag.message_payload in whole.parameters) == (measure(text).segments > 1)
    assert bool(whole.short_message) != (Tag.message_payload in whole.parameters)


@given(text=TEXTS)
def test_packed_segments_fit_the_140_octets_of_the_air(text: str) -> None:
    for segment in sent(message(text), gsm7="packed"):
        assert len(segment.short_message) <= 140
    if measure(text).segments > 1:
        for segment in sent(message(text), gsm7="packed", concatenation="sar"):
            assert len(segment.short_message) <= 134


def test_every_character_of_gsm_7_has_its_code() -> None:
    # The codes are their places in the table of 3GPP TS 23.038, 6.2.1, which has ESC at 27.
    for code, character in enumerate(BASIC[:27] + "\x1b" + BASIC[27:]):
        if character != "\x1b":
            assert unpacked(character) == bytes([code])
    assert unpacked(EXTENSION) == bytes.fromhex("1B0A 1B14 1B28 1B29 1B2F 1B3C 1B3D 1B3E 1B40 1B65")


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\x80", "\xff", "ç", "`", "ا", "😀", "\ufffe"])
def test_no_other_character_has_one(character: str) -> None:
    with pytest.raises(ValueError, match="outside GSM-7"):
        unpacked("a" + character)
    with pytest.raises(ValueError, match="outside GSM-7"):
        unpacked("@é" + character)


def test_packing_is_the_specifications() -> None:
    # 3GPP TS 23.038, 6.1.2.1.1: the first septet is in the low bits of the first octet.
    assert packed(b"") == b""
    assert packed(unpacked("1")) == b"1"
    assert packed(unpacked("hellohello")) == bytes.fromhex("E8329BFD4697D9EC37")
    assert packed(unpacked("12345678")) == bytes.fromhex("31D98C56B3DD70")
    # Seven over: carriage return, not "@".
    assert packed(unpacked("1234567")) == packed(unpacked("1234567\r"))


@given(st.binary(max_size=400).map(lambda raw: bytes(octet & 0x7F for octet in raw)), st.integers(0, 6))
def test_packed_septets_come_back_as_they_were(raw: bytes, fill_bits: int) -> None:
    octets = packed(raw, fill_bits)
    assert septets(octets, fill_bits) in (raw, raw + b"\r")
    assert len(octets) == -(-(7 * len(raw) + fill_bits) // 8)
    assert int.from_bytes(octets, "little") & ((1 << fill_bits) - 1) == 0


def test_escapes_and_surrogate_pairs_stay_whole_at_the_border_of_segments() -> None:
    first, second = sent(message("a" * 152 + "€" + "b" * 20))
    assert first.short_message[6:] == b"a" * 152
    assert second.short_message[6:8] == b"\x1b\x65"
    first, second = sent(message("ا" * 66 + "😀" + "ا" * 10))
    assert len(first.short_message) == 6 + 132
    assert second.short_message[6:10] == "😀".encode("utf-16-be")


@pytest.mark.parametrize(
    ("text", "coding"),
    [
        ("Grüße {aus} Köln", 3),
        ("20 € only", 8),
        ("ΔΦΓΛΩ", 8),
        ("€" * 70, 8),
        # As UCS-2 these would need more segments than were paid for.
        ("€" * 71, 0),
        ("a" * 300 + "€", 0),
        ("تا", 8),
    ],
)
def test_what_latin_1_lacks_goes_another_way_at_the_same_price(text: str, coding: int) -> None:
    segments = sent(message(text), gsm7="latin1")
    assert {segment.data_coding for segment in segments} == {coding}
    assert len(segments) == measure(text).segments


# -- segments that belong together


def test_a_header_numbers_the_segments() -> None:
    segments = sent(message("x" * 400))
    assert [segment.short_message[:6].hex() for segment in segments] == [
        "050003cd0301",
        "050003cd0302",
        "050003cd0303",
    ]
    assert {segment.esm_class for segment in segments} == {0x40}


def test_parameters_number_the_segments() -> None:
    segments = sent(message("x" * 400), concatenation="sar")
    assert [segment.parameters for segment in segments] == [
        {
            Tag.sar_msg_ref_num: b"\xab\xcd",
            Tag.sar_total_segments: b"\x03",
            Tag.sar_segment_seqnum: bytes([number]),
        }
        for number in (1, 2, 3)
    ]
    assert {segment.esm_class for segment in segments} == {0}


@pytest.mark.parametrize("concatenation", ["udh", "sar"])
def test_a_message_sent_again_has_the_same_segments(concatenation: str) -> None:
    first, again = (
        SubmitEncoder(settings(concatenation=concatenation)).bodies(message("x" * 400), NOW_US)
        for _ in range(2)
    )
    assert first == again


def test_messages_in_a_row_have_different_references() -> None:
    ids = MessageIds(salt=1, start=1000).make(1_795_335_960_000, 256)
    assert len({concatenation_reference(id_) & 0xFF for id_ in ids}) == 256
    assert 0 <= concatenation_reference("no id of ours ü") <= 0xFFFF


def test_a_message_of_one_segment_has_no_header() -> None:
    for concatenation in ("udh", "sar", "payload"):
        whole = one(message("x" * 160), concatenation=concatenation)
        assert (whole.esm_class, whole.short_message, whole.parameters) == (0, b"x" * 160, {})


# -- addresses


@pytest.mark.parametrize(
    ("sender", "ton", "npi", "address"),
    [
        ("", 0, 0, ""),
        ("Acme", 5, 0, "Acme"),
        ("4 you", 5, 0, "4 you"),
        ("+989121234567", 1, 1, "989121234567"),
        ("989121234567", 1, 1, "989121234567"),
        ("1234567", 1, 1, "1234567"),
        ("123456", 3, 0, "123456"),
        ("100", 3, 0, "100"),
    ],
)
def test_the_senders_form_tells_its_type(sender: str, ton: int, npi: int, address: str) -> None:
    whole = one(message(sender=sender))
    assert (whole.source_ton, whole.source_npi, whole.source) == (ton, npi, address)


def test_settings_fix_the_types_of_numbers() -> None:
    whole = one(message(), source_ton=2, source_npi=8, destination_ton=0, destination_npi=9)
    types = (whole.source_ton, whole.source_npi, whole.destination_ton, whole.destination_npi)
    assert types == (2, 8, 0, 9)
    assert one(message(), source_ton=6).source_npi == 0


def test_the_destination_goes_without_its_plus() -> None:
    whole = one(message())
    assert (whole.destination_ton, whole.destination_npi, whole.destination) == (1, 1, "989121234567")


def test_many_senders_keep_their_own_addresses() -> None:
    encoder = SubmitEncoder(settings())
    for _ in range(2):
        for n in range(1500):
            [body] = encoder.bodies(message(sender=f"S{n}"), NOW_US)
            assert decode_short_message(body).source == f"S{n}"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"sender": "ΔELTA"}, "from"),
        ({"sender": "x" * 21}, "from"),
        ({"sender": "a\0b"}, "from"),
        ({"to": "+98912\0x"}, "to"),
        ({"to": ""}, "to"),
        ({"to": "+" + "9" * 21}, "to"),
        ({"text": "\ud83d", "encoding": "UCS-2"}, "text"),
        ({"text": "\ud83d" * 200, "encoding": "UCS-2", "segments": 3}, "text"),
        ({"text": "تا"}, "text"),
        ({"text": "x" * 255}, "short_message"),
        ({"text": "x" * 153 * 256, "segments": 256}, "text"),
    ],
)
def test_what_smpp_cannot_carry_names_its_field(values: dict[str, Any], field: str) -> None:
    of = message(**{k: v for k, v in values.items() if k != "text"})
    fields = {name: getattr(of, name) for name in of.__struct_fields__} | values
    with pytest.raises(ValueError, match=field):
        SubmitEncoder(settings()).bodies(Message(**fields), NOW_US)


# -- validity


@pytest.mark.parametrize(
    ("left_us", "period"),
    [
        (300_000_000, "000000000500000R"),
        (299_999_999, "000000000459000R"),
        (1_999_999, "000000000001000R"),
        # Zeros would be the carrier's default, often days.
        (999_999, "000000000001000R"),
        (0, "000000000001000R"),
        (-5_000_000, "000000000001000R"),
        (86_400_000_000, "000001000000000R"),
        (86_399_000_000, "000000235959000R"),
        (7 * 86_400_000_000, "000007000000000R"),
        (31 * 86_400_000_000, "000030000000000R"),
    ],
)
def test_validity_is_what_is_left_and_never_longer(left_us: int, period: str) -> None:
    assert one(message(expires_at_us=NOW_US + left_us)).validity_period == period


def test_validity_follows_the_clock_of_one_encoder() -> None:
    encoder = SubmitEncoder(settings())
    of = message(expires_at_us=NOW_US + 10_000_000)
    seen = [
        decode_short_message(encoder.bodies(of, NOW_US + passed)[0]).validity_period[10:12]
        for passed in (0, 1, 1_000_000, 0, 9_500_000, 20_000_000)
    ]
    assert seen == ["10", "09", "09", "10", "01", "01"]


# -- settings


def test_settings_reach_every_submit() -> None:
    segments = sent(
        message("x" * 200), service_type="CMT", receipts=False, parameters={"1400": "4142", "020a": "0102"}
    )
    for segment in segments:
        assert (segment.service_type, segment.registered_delivery) == ("CMT", 0)
        assert segment.parameters == {0x1400: b"AB", Tag.source_port: b"\x01\x02"}
    assert one(message()).registered_delivery == 1


@pytest.mark.parametrize("concatenation", ["udh", "sar", "payload"])
@given(text=TEXTS)
def test_bodies_are_what_the_general_encoder_writes(concatenation: str, text: str) -> None:
    encoder = SubmitEncoder(settings(concatenation=concatenation, parameters={"1400": "00"}))
    for body in encoder.bodies(message(text), NOW_US):
        assert encode_short_message(decode_short_message(body)) == body


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"parameters": {"14": "00"}}, "parameters.14"),
        ({"parameters": {"0x14": "00"}}, "parameters.0x14"),
        ({"parameters": {"14_0": "00"}}, "parameters.14_0"),
        ({"parameters": {"1400": "0"}}, "parameters.1400"),
        ({"parameters": {"1400": "no"}}, "parameters.1400"),
        ({"parameters": {"1400": "00 11"}}, "parameters.1400"),
        ({"parameters": {"1400": "00" * 65_500}}, "parameters.1400"),
        ({"parameters": {"0424": "00"}}, "parameters.0424"),
        ({"parameters": {"020C": "0000"}}, "parameters.020C"),
        ({"service_type": "TOOLONG"}, "service_type"),
        ({"source_ton": 256}, "source_ton"),
        ({"destination_npi": -1}, "destination_npi"),
    ],
)
def test_a_setting_that_cannot_be_sent_is_named(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^providers\.carrier\.{name}\b"):
        SubmitEncoder(settings(**values))


def test_the_own_id_goes_with_every_segment_in_the_parameter_that_is_named_for_it() -> None:
    encoder = SubmitEncoder(
        SmppSettings(name="carrier", host="h", system_id="e", message_id_parameter="1401")
    )
    long = message("x" * 200)
    for body in encoder.bodies(long, NOW_US):
        assert decode_short_message(body).parameters == {0x1401: long.id.encode()}


def test_a_wrong_tag_for_the_own_id_is_one_sentence() -> None:
    settings = SmppSettings(name="carrier", host="h", system_id="e", message_id_parameter="0424")
    with pytest.raises(ConfigError, match=r"^providers\.carrier\.message_id_parameter must be the tag"):
        SubmitEncoder(settings)


# -- the provider's default alphabet and data codings


def decoded(segments: list[ShortMessage], alphabet: str) -> str:
    """The whole text, as a provider with this default alphabet reads it."""
    codecs = {0: alphabet, 3: "latin-1", 8: "utf-16-be"}
    return "".join(
        s.short_message[6 if s.esm_class & 0x40 else 0 :].decode(codecs[s.data_coding]) for s in segments
    )


@pytest.mark.parametrize("alphabet", ["latin1", "ascii"])
@given(text=TEXTS)
def test_another_default_alphabet_reads_the_text_that_was_meant(alphabet: str, text: str) -> None:
    segments = sent(message(text), default_alphabet=alphabet)
    assert decoded(segments, alphabet) == text
    assert len({segment.data_coding for segment in segments}) == 1
    if segments[0].data_coding != 8:
        assert len(segments) == measure(text).segments
    elif len(segments) > 1:
        assert max(len(segment.short_message) for segment in segments) <= 140


@pytest.mark.parametrize(
    ("text", "values", "coding", "raw"),
    [
        ("a@b_c", {"default_alphabet": "latin1"}, 0, b"a@b_c"),
        ("a@b_c", {"default_alphabet": "ascii"}, 0, b"a@b_c"),
        ("h\u00e9", {"default_alphabet": "latin1"}, 0, b"h\xe9"),
        ("h\u00e9", {"default_alphabet": "ascii"}, 3, b"h\xe9"),
        ("h\u00e9", {"default_alphabet": "latin1", "gsm7": "latin1"}, 3, b"h\xe9"),
        ("\u20ac", {"default_alphabet": "latin1"}, 8, b"\x20\xac"),
        ("a@", {"data_coding": DataCodings(default=1)}, 1, b"a\0"),
        ("a@", {"data_coding": DataCodings(latin1=0xF3), "gsm7": "latin1"}, 0xF3, b"a@"),
        ("\u0627", {"data_coding": DataCodings(ucs2=24)}, 24, b"\x06\x27"),
    ],
)
def test_a_text_has_the_octets_and_the_coding_of_the_settings(
    text: str, values: dict[str, Any], coding: int, raw: bytes
) -> None:
    encoder = SubmitEncoder(settings(**values))
    for _ in range(2):  # the second goes the short way where there is one
        [body] = encoder.bodies(message(text), NOW_US)
        read = decode_short_message(body)
        assert (read.data_coding, read.short_message) == (coding, raw)


@pytest.mark.parametrize("concatenation", ["udh", "sar", "payload"])
@pytest.mark.parametrize("text", ["\u20ac" * 71, "a" * 160 + "\u20ac"])
def test_what_the_alphabet_lacks_goes_as_ucs_2_in_the_segments_it_needs(
    concatenation: str, text: str
) -> None:
    segments = sent(message(text), default_alphabet="latin1", concatenation=concatenation)
    assert {segment.data_coding for segment in segments} == {8}
    assert [segment.short_message for segment in segments if len(segment.short_message) > 140] == []
    if concatenation == "payload":
        [whole] = segments
        assert whole.parameters[Tag.message_payload].decode("utf-16-be") == text
    else:
        assert len(segments) == -(-len(text) // 67)


# -- the form of the validity


def test_validity_may_be_a_point_in_time_or_left_out() -> None:
    of = message(expires_at_us=1_795_335_999_900_000)
    assert one(of, validity_period="absolute").validity_period == "261122082639000+"
    assert one(of, validity_period="none").validity_period == ""
    over = message(expires_at_us=NOW_US - 1)
    assert one(over, validity_period="absolute").validity_period == "261122082601000+"
