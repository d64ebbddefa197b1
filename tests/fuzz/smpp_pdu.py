"""SMPP: framing, bodies, parameters and receipts, without a session around them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from engine.providers.problems import Problems
from engine.providers.settings import SmppSettings
from engine.providers.smpp.body import (
    Bind,
    ShortMessage,
    decode_bind,
    decode_data_sm,
    decode_message_id,
    decode_parameters,
    decode_short_message,
    encode_message_id,
    encode_short_message,
)
from engine.providers.smpp.codes import ANSWER, Command, CommandStatus, MessageState, Tag
from engine.providers.smpp.deliveries import Inbox
from engine.providers.smpp.pdu import PDU_BYTES_MAX, Pdu, Reader, WrongPdu, pack
from engine.providers.smpp.provider import SmppProvider
from engine.receipts.records import Receipt
from tests.fuzz.target import Bench, Check, Target, bench, pieces
from tests.providers.smpp.sm_writer import encode_data_sm

SETTINGS = SmppSettings(name="acme", host="h", system_id="user", password="secret", window=3)
TEXT = (
    b"id:0123456789 sub:001 dlvrd:001 submit date:2601010000 done date:2601010001 stat:DELIVRD err:000 "
    b"text:Your code"
)
_WIDE = TEXT.decode().encode("utf-16-be")
# Bodies of receipts, as they are and as they should not be.
RECEIPTS = [
    ShortMessage(source="4915112345678", destination="1000", esm_class=4, short_message=TEXT),
    ShortMessage(esm_class=4, short_message=_WIDE, data_coding=8),
    ShortMessage(esm_class=4, short_message=TEXT, data_coding=8),
    ShortMessage(esm_class=4, short_message=_WIDE, data_coding=0),
    ShortMessage(esm_class=4, short_message=TEXT.decode().encode("utf-16-le"), data_coding=8),
    ShortMessage(esm_class=4, short_message=b"stat:UNDELIVRD err:21 text:stat:DELIVRD id:9"),
    ShortMessage(esm_class=0x44, short_message=b"\x05\x00\x03\x07\x02\x01" + TEXT),
    ShortMessage(esm_class=0x20, short_message=b"id: 77 stat: ENROUTE err: text:"),
    ShortMessage(esm_class=0, short_message=TEXT),
    ShortMessage(esm_class=0, short_message=b"hello from a handset", source="4915112345678"),
    ShortMessage(
        esm_class=4,
        parameters={
            Tag.receipted_message_id: b"A1\0",
            Tag.message_state: bytes([MessageState.DELIVERED]),
            Tag.network_error_code: b"\x03\x00\x05",
        },
    ),
    ShortMessage(esm_class=4, parameters={Tag.message_payload: TEXT, Tag.message_state: b"\x09"}),
]
# A NUL too many, and a last parameter cut short.
_TAILS = (b"", b"\0", bytes.fromhex("0423000503 00"))
WORDS = (
    b"id:", b"sub:001", b"dlvrd:001", b"submit date:", b"done date:", b"stat:", b"err:", b"text:", b"DELIVRD",
    b"UNDELIV", b"UNKNOWN", b"\x00\x1e\x00\x03A1\x00", b"\x04\x27\x00\x01\x02",
    b"\x04\x23\x00\x03\x03\x00\x05",
    b"\x04\x24\x00\x02id", b"\x80\x00\x00\x04", b"\x00\x00\x00\x05", b"\x00\x00\x01\x03", b"\x00\x00\x00\x15",
    b"\x00\x00\x00\x06", b"\x00\x00\x00\x10", b"\x00\x00\x00\x58", b"\xff\xff\xff\xff",
)  # fmt: skip


def bodies() -> list[bytes]:
    """Bodies of deliver_sm."""
    return [encode_short_message(one) + tail for one in RECEIPTS for tail in _TAILS]


def deliveries() -> list[bytes]:
    """Whole PDUs deliver_sm and data_sm."""
    found = [pack(Command.deliver_sm, 0, 7 + n, body) for n, body in enumerate(bodies())]
    return found + [pack(Command.data_sm, 0, 70 + n, encode_data_sm(m)) for n, m in enumerate(RECEIPTS)]


def seeds() -> list[bytes]:
    """The first octet is the size of the pieces."""
    bind = pack(Command.bind_transceiver, 0, 1, Bind("user", "secret").encode())
    answer = pack(Command.submit_sm | ANSWER, 0, 2, encode_message_id("A1"))
    strange = [pack(0x77, 3, 9, b"x"), b"\0\0\0\x0f" + b"x" * 12, pack(Command.generic_nack, 8, 0)]
    alone = [bind, answer, *deliveries(), *strange]
    return [b"\0" + one for one in alone] + [b"\x03" + bind + answer + b"".join(deliveries()[:3])]


class Delivered:
    """What becomes of deliveries: the sink that keeps their receipts, and the answers to them."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.statuses: list[int] = []

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        self.receipts += receipts
        stored(True)

    def answer(self, deliveries: Sequence[Pdu], status: int) -> None:
        self.statuses += [status] * len(deliveries)


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    delivered = Delivered()
    with bench() as on:
        inbox = SmppProvider(SETTINGS, delivered, Problems())._traffic._inbox
        yield partial(check, on, inbox, delivered)


def check(on: Bench, inbox: Inbox, delivered: Delivered, data: bytes) -> None:
    """Cut as one piece and as many, the PDUs are the same, none is lost, and each body is read or refused."""
    size, stream = (data[0], data[1:]) if data else (0, b"")
    pdus = Reader().feed(stream)
    reader = Reader()
    others = [pdu for piece in pieces(stream, size) for pdu in reader.feed(piece)]
    assert [str(pdu) for pdu in pdus] == [str(pdu) for pdu in others], "the PDUs depend on the pieces"
    cut = 0
    for pdu in pdus:
        if isinstance(pdu, WrongPdu):
            length = int.from_bytes(stream[cut : cut + 4], "big")
            assert pdu is pdus[-1], "something comes after the place was lost"
            assert not 16 <= length <= PDU_BYTES_MAX, "a length that can be true was refused"
            return
        again = pack(pdu.command_id, pdu.status, pdu.sequence, pdu.body)
        assert stream[cut : cut + len(again)] == again, "a PDU is not what was sent"
        cut += len(again)
        _body(pdu)
        if pdu.command_id in (Command.deliver_sm, Command.data_sm):
            on.look(partial(_deliver, inbox, delivered, pdu))


def _deliver(inbox: Inbox, delivered: Delivered, pdu: Pdu) -> None:
    delivered.receipts.clear()
    delivered.statuses.clear()
    inbox.take((pdu,), delivered)
    # A delivery that is refused again and again may be answered later.
    assert len(delivered.statuses) <= 1, f"answered {delivered.statuses}"
    if delivered.statuses == [CommandStatus.ESME_ROK]:
        assert delivered.receipts or not is_receipt(pdu.body), "confirmed and not kept"
    for one in delivered.receipts:
        assert one.provider_message_id, "a receipt without an id"


def is_receipt(body: bytes) -> bool:
    """Whether esm_class says so (SMPP 3.4, 5.2.12), found by counting NULs."""
    at = body.find(0) + 1
    for _ in range(2):
        end = body.find(0, at + 2)
        if at == 0 or end < 0:
            return False
        at = end + 1
    return at < len(body) and body[at] & 0b0011_1100 in (0b0100, 0b10_0000)


def _body(pdu: Pdu) -> None:
    assert "\0" not in decode_message_id(pdu.body)
    for decode in (decode_bind, decode_parameters, decode_short_message, decode_data_sm):
        try:
            decode(pdu.body)
        except WrongPdu as e:
            assert e.status != CommandStatus.ESME_ROK
            assert str(e)


TARGET = Target("smpp_pdu", seeds, opened, WORDS)
