"""SMPP on the wire: what goes in comes out, and whatever comes in, nothing but WrongPdu comes out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers.smpp.body import (
    Bind,
    ShortMessage,
    _realigned,
    decode_bind,
    decode_data_sm,
    decode_message_id,
    decode_parameters,
    decode_short_message,
    encode_bind_resp,
    encode_message_id,
    encode_parameters,
    encode_short_message,
)
from engine.providers.smpp.codes import ANSWER, Command, CommandStatus, Tag
from engine.providers.smpp.pdu import HEADER_BYTES, PDU_BYTES_MAX, Pdu, Reader, WrongPdu, pack
from tests.providers.smpp.sm_writer import encode_data_sm

OCTET = st.integers(0, 255)
WORD = st.integers(0, 2**32 - 1)


def strings(size: int) -> st.SearchStrategy[str]:
    """C-octet strings of at most `size` octets, without the NUL that ends them."""
    return st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=size - 1)


PARAMETERS = st.dictionaries(st.integers(0, 65_535), st.binary(max_size=40), max_size=4)
MESSAGES = st.builds(
    ShortMessage,
    service_type=strings(6),
    source_ton=OCTET,
    source_npi=OCTET,
    source=strings(21),
    destination_ton=OCTET,
    destination_npi=OCTET,
    destination=strings(21),
    esm_class=OCTET,
    protocol_id=OCTET,
    priority=OCTET,
    schedule_delivery_time=strings(17),
    validity_period=strings(17),
    registered_delivery=OCTET,
    replace_if_present=OCTET,
    data_coding=OCTET,
    sm_default_msg_id=OCTET,
    short_message=st.binary(max_size=254),
    parameters=PARAMETERS,
)
BINDS = st.builds(
    Bind,
    system_id=strings(16),
    password=strings(64),
    system_type=strings(13),
    interface_version=OCTET,
    addr_ton=OCTET,
    addr_npi=OCTET,
    address_range=strings(41),
)
PDUS = st.builds(Pdu, WORD, WORD, WORD, st.binary(max_size=60))


def packed(pdu: Pdu) -> bytes:
    return pack(pdu.command_id, pdu.status, pdu.sequence, pdu.body)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces, cut at `places`, which need not be in order."""
    at = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(at)]


# -- the wire, written out


# The specification's own example of a PDU, section 3.2.2: a bind_transmitter.
BIND_TRANSMITTER = bytes.fromhex(
    "0000002F 00000002 00000000 00000001"
    "534D50503354455354 00 7365637265743038 00 5355424D495431 00 00 01 01 00"
)
SUBMIT_SM = bytes.fromhex(
    "00000062 00000004 00000000 0000002A"
    "434D54 00"  # service_type CMT
    "05 00 41636D65 00"  # alphanumeric, Acme
    "01 01 393839313231323334353637 00"  # international, E.164
    "40 00 00 00"  # esm_class with UDHI, protocol_id, priority_flag, no schedule
    "3030303030303030303430303030305200"  # 000000000400000R: four minutes
    "01 00 00 00 0B 050003CD0201 48656C6C6F"  # receipt wanted; 11 octets: header, Hello
    "0204 0002 0102"  # user_message_reference
    "1400 0009 303132333435363738"  # a parameter of the carrier's own
)
DELIVER_SM_BODY = bytes.fromhex(
    "00 01 01 3938393132 00 03 00 31303031 00 04 00 00 00 00 00 00 00 00 05 69643A3432"
    "001E 0003 343200 0427 0001 02 0423 0003 030045"
)
SUBMIT_SM_RESP = bytes.fromhex("00000014 80000004 00000000 0000002A 41424300")


def test_the_specifications_example_is_read_and_written_as_it_stands() -> None:
    [pdu] = Reader().feed(BIND_TRANSMITTER)
    assert isinstance(pdu, Pdu)
    assert (pdu.command_id, pdu.status, pdu.sequence) == (Command.bind_transmitter, CommandStatus.ESME_ROK, 1)
    bind = Bind("SMPP3TEST", "secret08", "SUBMIT1", interface_version=0, addr_ton=1, addr_npi=1)
    assert decode_bind(pdu.body) == bind
    assert pack(Command.bind_transmitter, 0, 1, bind.encode()) == BIND_TRANSMITTER


def test_submit_sm_is_written_octet_for_octet() -> None:
    message = ShortMessage(
        service_type="CMT",
        source_ton=5,
        source="Acme",
        destination_ton=1,
        destination_npi=1,
        destination="989121234567",
        esm_class=0x40,
        validity_period="000000000400000R",
        registered_delivery=1,
        short_message=bytes.fromhex("050003CD0201") + b"Hello",
        parameters={Tag.user_message_reference: b"\x01\x02", 0x1400: b"012345678"},
    )
    assert pack(Command.submit_sm, 0, 42, encode_short_message(message)) == SUBMIT_SM
    [pdu] = Reader().feed(SUBMIT_SM)
    assert isinstance(pdu, Pdu)
    assert decode_short_message(pdu.body) == message


def test_deliver_sm_is_read_octet_for_octet() -> None:
    assert decode_short_message(DELIVER_SM_BODY) == ShortMessage(
        source_ton=1,
        source_npi=1,
        source="98912",
        destination_ton=3,
        destination="1001",
        esm_class=4,
        short_message=b"id:42",
        parameters={
            Tag.receipted_message_id: b"42\0",
            Tag.message_state: b"\x02",
            Tag.network_error_code: b"\x03\x00\x45",
        },
    )


def test_data_sm_is_read_octet_for_octet() -> None:
    body = bytes.fromhex("00 01 01 3938393132 00 03 00 31303031 00 04 00 00 001E 0003 343200 0427 0001 02")
    message = decode_data_sm(body)
    assert (message.source, message.destination, message.esm_class) == ("98912", "1001", 4)
    assert message.parameters == {Tag.receipted_message_id: b"42\0", Tag.message_state: b"\x02"}
    assert encode_data_sm(message) == body


def test_submit_sm_resp_is_read_and_written_octet_for_octet() -> None:
    [pdu] = Reader().feed(SUBMIT_SM_RESP)
    assert isinstance(pdu, Pdu)
    assert pdu.command_id == Command.submit_sm | ANSWER == Command.submit_sm_resp
    assert decode_message_id(pdu.body) == "ABC"
    assert pack(Command.submit_sm_resp, 0, 42, encode_message_id("ABC")) == SUBMIT_SM_RESP


def test_every_answer_has_its_request() -> None:
    requests = {command.name: command for command in Command if not command & ANSWER}
    answers = {c.name.removesuffix("_resp"): c for c in Command if c & ANSWER and c != Command.generic_nack}
    assert answers == {name: requests[name] | ANSWER for name in answers}
    assert requests.keys() - answers.keys() == {"outbind", "alert_notification"}


# -- what goes in comes out


@given(MESSAGES)
def test_short_messages_come_back_as_they_were(message: ShortMessage) -> None:
    assert decode_short_message(encode_short_message(message)) == message


@given(MESSAGES)
def test_data_sm_comes_back_with_all_that_it_carries(message: ShortMessage) -> None:
    back = decode_data_sm(encode_data_sm(message))
    carried = ("service_type", "source", "destination", "esm_class", "data_coding", "parameters")
    assert [getattr(back, name) for name in carried] == [getattr(message, name) for name in carried]
    assert back.short_message == b""


@given(BINDS)
def test_binds_come_back_as_they_were(bind: Bind) -> None:
    assert decode_bind(bind.encode()) == bind


@given(strings(16), PARAMETERS)
def test_a_bind_answer_is_an_id_and_parameters(system_id: str, parameters: dict[int, bytes]) -> None:
    written_id, _, rest = encode_bind_resp(system_id, parameters).partition(b"\0")
    assert (written_id.decode("latin-1"), decode_parameters(rest)) == (system_id, parameters)


@given(strings(65))
def test_message_ids_come_back_as_they_were(message_id: str) -> None:
    assert decode_message_id(encode_message_id(message_id)) == message_id


# -- the stream


@given(st.lists(PDUS, max_size=8), st.lists(st.integers(0, 10_000), max_size=12))
def test_pdus_come_out_the_same_however_the_stream_is_cut(pdus: list[Pdu], places: list[int]) -> None:
    stream = b"".join(map(packed, pdus))
    reader = Reader()
    assert [found for piece in cut(stream, places) for found in reader.feed(piece)] == pdus


@given(st.lists(PDUS, max_size=4))
def test_pdus_come_out_octet_by_octet_each_as_soon_as_it_is_whole(pdus: list[Pdu]) -> None:
    reader = Reader()
    for pdu in pdus:
        *all_but_last, last = packed(pdu)
        for octet in all_but_last:
            assert reader.feed(bytes([octet])) == []
        assert reader.feed(bytes([last])) == [pdu]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bodies_are_bytes_whatever_the_stream_came_in(kind: Callable[[bytes], bytes]) -> None:
    [pdu] = Reader().feed(kind(SUBMIT_SM_RESP))
    assert isinstance(pdu, Pdu)
    assert type(pdu.body) is bytes


def test_who_feeds_may_use_its_buffer_again() -> None:
    reader, buffer = Reader(), bytearray(SUBMIT_SM_RESP[:18])
    assert reader.feed(memoryview(buffer)) == []
    buffer[:] = bytes(18)
    [pdu] = reader.feed(SUBMIT_SM_RESP[18:])
    assert isinstance(pdu, Pdu)
    assert pdu.body == b"ABC\0"


def test_the_longest_pdu_passes_and_one_octet_more_does_not() -> None:
    longest = pack(Command.submit_sm, 0, 1, bytes(PDU_BYTES_MAX - HEADER_BYTES))
    [pdu] = Reader().feed(longest)
    assert isinstance(pdu, Pdu)
    [wrong] = Reader().feed(pack(Command.submit_sm, 0, 1, bytes(PDU_BYTES_MAX - HEADER_BYTES + 1)))
    assert isinstance(wrong, WrongPdu)


@pytest.mark.parametrize("length", [0, 1, 15, PDU_BYTES_MAX + 1, 2**32 - 1])
def test_a_length_that_cannot_be_true_ends_the_stream_after_what_came_before(length: int) -> None:
    reader = Reader()
    good = Pdu(Command.enquire_link, 0, 7, b"")
    wrong_header = length.to_bytes(4, "big") + bytes(12)
    *before, wrong = reader.feed(packed(good) + wrong_header + packed(good))
    assert before == [good]
    assert isinstance(wrong, WrongPdu)
    assert wrong.fatal
    assert (wrong.status, wrong.sequence) == (CommandStatus.ESME_RINVCMDLEN, None)
    assert str(length) in str(wrong)
    assert reader.feed(packed(good)) == []


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_any_octets_give_pdus_and_at_most_one_fatal_word(pieces: list[bytes]) -> None:
    reader = Reader()
    found = [item for piece in pieces for item in reader.feed(piece)]
    assert all(isinstance(item, Pdu) for item in found[:-1])
    # Nothing is made up: what came out stood in the stream, from its beginning.
    good = b"".join(packed(item) for item in found if isinstance(item, Pdu))
    assert b"".join(pieces).startswith(good)


@given(st.lists(PDUS, min_size=2, max_size=6), st.data())
def test_a_spoilt_body_costs_no_other_pdu(pdus: list[Pdu], data: st.DataObject) -> None:
    spoilt = data.draw(st.integers(0, len(pdus) - 1))
    body = data.draw(st.binary(max_size=80))
    pdus[spoilt] = msgspec.structs.replace(pdus[spoilt], body=body)
    stream = b"".join(map(packed, pdus))
    reader = Reader()
    assert [found for piece in cut(stream, [len(stream) // 2]) for found in reader.feed(piece)] == pdus


# -- bodies that are wrong

DECODERS: list[Callable[[bytes], object]] = [
    decode_short_message,
    decode_data_sm,
    decode_bind,
    decode_message_id,
    decode_parameters,
]


def wrong_pdu(decode: Callable[[bytes], object], body: bytes) -> WrongPdu | None:
    """What the decoder says against `body`; any other error fails the test."""
    try:
        decode(body)
    except WrongPdu as wrong:
        return wrong
    return None


@given(st.sampled_from(DECODERS), st.binary(max_size=300))
def test_any_octets_decode_or_are_a_wrong_pdu(decode: Callable[[bytes], object], body: bytes) -> None:
    wrong = wrong_pdu(decode, body)
    assert wrong is None or (not wrong.fatal and wrong.status != CommandStatus.ESME_ROK)


@given(
    st.sampled_from(DECODERS),
    MESSAGES,
    st.lists(st.tuples(st.integers(0, 600), OCTET), max_size=5),
    st.data(),
)
def test_spoilt_messages_decode_or_are_a_wrong_pdu(
    decode: Callable[[bytes], object],
    message: ShortMessage,
    spoils: list[tuple[int, int]],
    data: st.DataObject,
) -> None:
    body = bytearray(encode_short_message(message))
    for place, octet in spoils:
        body[place % len(body)] = octet
    a, b = sorted(data.draw(st.integers(0, len(body))) for _ in range(2))
    for spoilt in (bytes(body), bytes(body[:a]), bytes(body[:a] + body[b:]), bytes(body[b:] + body[:a])):
        wrong = wrong_pdu(decode, spoilt)
        assert wrong is None or not wrong.fatal


@given(MESSAGES)
def test_of_a_message_that_is_cut_short_only_what_is_whole_is_read(message: ShortMessage) -> None:
    body = encode_short_message(message)
    text_at = len(body) - len(encode_parameters(message.parameters)) - len(message.short_message)
    for end in range(len(body)):
        if end < text_at:
            with pytest.raises(WrongPdu) as raised:
                decode_short_message(body[:end])
            assert raised.value.status == CommandStatus.ESME_RINVCMDLEN
        else:
            read = decode_short_message(body[:end])
            assert read.short_message == message.short_message[: end - text_at]
            # What is left may by chance be whole by lengths that are wrong by one octet, which carriers send.
            if not _realigned(body[:end], text_at + len(read.short_message)):
                assert read.parameters.items() <= message.parameters.items()


@pytest.mark.parametrize(
    ("spoil", "changes"),
    [
        (lambda body: b"X" * 300 + body, {"service_type": "X" * 300}),
        (lambda body: body[:3] + b"9" * 65 + body[3:], {"source": "9" * 65 + "98912"}),
        (lambda body: body.replace(b"1001", b"1" * 65), {"destination": "1" * 65}),
        (lambda body: body[:20] + b"9" * 18 + body[20:], {"validity_period": "9" * 18}),
        (lambda body: body[:19] + b"9" * 18 + body[19:], {"schedule_delivery_time": "9" * 18}),
        (lambda body: body + b"\0", {}),
        (lambda body: body + b"\0\1\0", {}),
        (lambda body: body + bytes.fromhex("0423 0005 0300"), {}),
    ],
)
def test_what_is_longer_than_the_specification_allows_is_read(
    spoil: Callable[[bytes], bytes], changes: dict[str, str]
) -> None:
    whole = decode_short_message(DELIVER_SM_BODY)
    assert decode_short_message(spoil(DELIVER_SM_BODY)) == msgspec.structs.replace(whole, **changes)


def test_an_answer_that_takes_a_message_is_never_wrong_for_its_form() -> None:
    assert decode_message_id(b"") == ""
    assert decode_message_id(b"ABC") == "ABC"
    assert decode_message_id(b"ABC\0rest") == "ABC"
    assert len(decode_message_id(b"9" * 5000)) == 254


# -- what cannot be written


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("service_type", "X" * 6),
        ("source", "9" * 21),
        ("source", "a\0b"),
        ("source", "Δelta"),
        ("destination", "9" * 21),
        ("schedule_delivery_time", "0" * 17),
        ("validity_period", "0" * 17),
        ("source_ton", 256),
        ("destination_npi", -1),
        ("data_coding", 256),
        ("short_message", bytes(255)),
        ("parameters", {0x1400: bytes(65_536)}),
        ("parameters", {65_536: b""}),
    ],
)
def test_what_does_not_fit_names_its_field(field: str, value: object) -> None:
    message = msgspec.structs.replace(ShortMessage(), **{field: value})
    name = "parameter" if field == "parameters" else field
    with pytest.raises(ValueError, match=name):
        encode_short_message(message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("system_id", "x" * 64),
        ("password", "x" * 64),
        ("system_type", "x" * 13),
        ("address_range", "x" * 41),
        ("addr_ton", 256),
    ],
)
def test_what_does_not_fit_a_bind_names_its_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        msgspec.structs.replace(Bind("s"), **{field: value}).encode()


def test_an_id_that_is_too_long_names_its_field() -> None:
    with pytest.raises(ValueError, match="message_id"):
        encode_message_id("9" * 65)


# -- beside codecs that others wrote, where they are installed


def plain(size: int) -> st.SearchStrategy[str]:
    """ASCII: both libraries take strings for something narrower than octets."""
    return st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=size - 1)


PLAIN_MESSAGES = MESSAGES.flatmap(
    lambda m: st.builds(
        lambda service, source, destination, schedule, validity: msgspec.structs.replace(
            m,
            service_type=service,
            source=source,
            destination=destination,
            schedule_delivery_time=schedule,
            validity_period=validity,
        ),
        *map(plain, (6, 21, 21, 17, 17)),
    )
)


@given(PLAIN_MESSAGES, st.sampled_from([Command.submit_sm, Command.deliver_sm]))
def test_smpp34_reads_the_same_fields_and_writes_the_same_octets(
    message: ShortMessage, command: Command
) -> None:
    smpp34 = pytest.importorskip("smpp34")
    wire = pack(command, 0, 9, encode_short_message(message))
    theirs = smpp34.decode(wire)
    assert theirs.encode() == wire
    assert [
        *(theirs.service_type, theirs.source_addr_ton, theirs.source_addr_npi, theirs.source_addr),
        *(theirs.dest_addr_ton, theirs.dest_addr_npi, theirs.destination_addr),
        *(theirs.esm_class, theirs.protocol_id, theirs.priority_flag),
        *(theirs.schedule_delivery_time, theirs.validity_period),
        *(theirs.registered_delivery, theirs.replace_if_present_flag, theirs.data_coding),
        *(theirs.sm_default_msg_id, theirs.short_message),
        {tlv.tag: tlv.value for tlv in theirs.tlvs},
    ] == list(msgspec.structs.astuple(message))


class Numbers:
    """What smpplib asks a client for."""

    sequence = 9

    def next_sequence(self) -> int:
        return self.sequence


@given(PLAIN_MESSAGES)
def test_smpplib_reads_the_same_fields_and_writes_the_same_octets(message: ShortMessage) -> None:
    smpp = pytest.importorskip("smpplib.smpp")
    # It knows parameters by name only, and writes one that is 0 as if it were not there.
    message = msgspec.structs.replace(message, parameters={Tag.user_message_reference: b"\x01\x02"})
    wire = pack(Command.submit_sm, 0, 9, encode_short_message(message))
    fields = {
        "service_type": message.service_type,
        "source_addr_ton": message.source_ton,
        "source_addr_npi": message.source_npi,
        "source_addr": message.source,
        "dest_addr_ton": message.destination_ton,
        "dest_addr_npi": message.destination_npi,
        "destination_addr": message.destination,
        "esm_class": message.esm_class,
        "protocol_id": message.protocol_id,
        "priority_flag": message.priority,
        "schedule_delivery_time": message.schedule_delivery_time,
        "validity_period": message.validity_period,
        "registered_delivery": message.registered_delivery,
        "replace_if_present_flag": message.replace_if_present,
        "data_coding": message.data_coding,
        "sm_default_msg_id": message.sm_default_msg_id,
        "short_message": message.short_message,
        "user_message_reference": 0x0102,
    }
    assert smpp.make_pdu("submit_sm", client=Numbers(), sequence=9, **fields).generate() == wire
    theirs = smpp.parse_pdu(wire, client=Numbers(), allow_unknown_opt_params=True)
    read = {name: getattr(theirs, name) for name in fields}
    assert read == {k: v.encode() if isinstance(v, str) else v for k, v in fields.items()}
