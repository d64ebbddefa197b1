"""A whole SMPP session, fed by a carrier with any octets in any pieces: provider, line, session, inbox.

The first octet says how many messages are sent and how the carrier begins and ends, the second the size
of the pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from struct import Struct

from engine.providers.problems import Problems
from engine.providers.smpp.body import encode_message_id
from engine.providers.smpp.codes import ANSWER, Command, CommandStatus
from engine.providers.smpp.connection import Connection
from engine.providers.smpp.pdu import PDU_BYTES_MAX, Pdu, Reader, pack
from engine.providers.smpp.provider import SmppProvider
from engine.providers.smpp.session import Session
from engine.records import Verdict
from tests.fuzz import smpp_pdu
from tests.fuzz.target import Bench, Check, Target, Transport, bench, pieces
from tests.providers.carrier import message
from tests.providers.sink import Sink

MESSAGES, KEEPS, BOUND, LONG, STOPPED = 0b11, 0b100, 0b1000, 0b1_0000, 0b10_0000
_HEADER = Struct(">IIII")
_DELIVERIES = {int(Command.deliver_sm), int(Command.data_sm)}
_TEXTS = ("one segment", "two segments " * 20)


def seeds() -> list[bytes]:
    # The bind has the sequence number 1, submits have those that follow.
    answers = [pack(Command.submit_sm | ANSWER, 0, n, encode_message_id(f"A{n}")) for n in (2, 3, 4)]
    throttled = pack(Command.submit_sm | ANSWER, CommandStatus.ESME_RTHROTTLED, 2)
    refused = pack(Command.submit_sm | ANSWER, CommandStatus.ESME_RINVDSTADR, 3)
    nack = pack(Command.generic_nack, CommandStatus.ESME_RINVCMDID, 4)
    unbind, alive = pack(Command.unbind, 0, 50), pack(Command.enquire_link, 0, 51)
    bound = pack(Command.bind_transceiver | ANSWER, 0, 1, b"smsc\0")
    talks = [
        b"".join(answers), throttled + refused + nack, answers[0] + unbind, alive + answers[1] + answers[1],
        unbind + answers[2], b"\0\0\0\x01" + answers[0], answers[0][:7],
    ]  # fmt: skip
    found = [bytes([flags, size]) + talk for talk in talks for flags, size in ((0x0F, 0), (0x1B, 3))]
    found += [bytes([0x0D | 0x20 * (n % 2), n % 4]) + one for n, one in enumerate(smpp_pdu.deliveries())]
    found += [bytes([0x09, 0]) + one for one in smpp_pdu.deliveries()[::3]]
    found += [bytes([0x07, 5]) + bound + answers[0] + one for one in smpp_pdu.deliveries()[::5]]
    return found


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    with bench() as on:
        yield partial(check, on)


def check(on: Bench, data: bytes) -> None:
    flags, size = (data[0], data[1]) if len(data) > 1 else (BOUND, 0)
    on.run(_session(flags, size, data[2:]))


async def _session(flags: int, size: int, stream: bytes) -> None:
    sink = Sink()
    sink.keeps = bool(flags & KEEPS)
    provider = SmppProvider(smpp_pdu.SETTINGS, sink, Problems())
    traffic, line = provider._traffic, provider._lines[0]
    traffic.patient_to_s = time.monotonic() + 1
    session = Session(
        Command.bind_transceiver, line._terms.bind_body, provider.counts, timeout_s=10, enquire_link_s=30
    )
    connection, transport = Connection(line, session), Transport()
    connection.connection_made(transport)
    if flags & BOUND:
        connection.data_received(pack(Command.bind_transceiver | ANSWER, 0, 1, b"smsc\0"))
    verdicts: list[list[Verdict]] = [[] for _ in range(flags & MESSAGES)]
    for n, given in enumerate(verdicts):
        provider.submit(message(n, _TEXTS[bool(flags & LONG)]), given.append)
    await _turns(2)
    for piece in pieces(stream, size):
        if transport.closed:
            break
        connection.data_received(piece)
    await _turns(2)
    traffic.sweep()
    if flags & STOPPED:
        traffic.stop()
    connection.connection_lost(None)
    traffic.stop()
    await _turns(3)
    assert [len(given) for given in verdicts] == [1] * len(verdicts), f"verdicts: {verdicts}"
    _deliveries(stream, bytes(transport.written), len(sink.receipts))


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _deliveries(stream: bytes, written: bytes, kept: int) -> None:
    """Each delivery was answered once at most, and confirmed only when it was kept or is no receipt."""
    asked: Counter[tuple[int, int]] = Counter()
    no_receipts = 0
    for command, sequence, body in _pdus(stream):
        if command in _DELIVERIES:
            asked[command, sequence] += 1
            no_receipts += not smpp_pdu.is_receipt(body)
    answered: Counter[tuple[int, int]] = Counter()
    confirmed = 0
    for pdu in Reader().feed(written):
        assert isinstance(pdu, Pdu), "what was written is no PDU"
        command = pdu.command_id & ~ANSWER
        if pdu.command_id & ANSWER and command in _DELIVERIES:
            answered[command, pdu.sequence] += 1
            confirmed += pdu.status == CommandStatus.ESME_ROK
    assert answered <= asked, f"answered {answered}, asked {asked}"
    assert confirmed <= kept + no_receipts, f"{confirmed} confirmed, {kept} kept, {no_receipts} no receipts"


def _pdus(stream: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while len(stream) - at >= 16:
        length, command, _, sequence = _HEADER.unpack_from(stream, at)
        if not 16 <= length <= PDU_BYTES_MAX or at + length > len(stream):
            return
        yield command, sequence, stream[at + 16 : at + length]
        at += length


TARGET = Target("smpp_session", seeds, opened, smpp_pdu.WORDS)
