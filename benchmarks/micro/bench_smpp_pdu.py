"""What a PDU of SMPP costs: to make it from a message, to cut it from the stream, to read it.

    pytest benchmarks/micro/bench_smpp_pdu.py -s

It is compared with smpplib (Python), smpp.pdu3 (Python) and smpp34 (Rust), as far as they are
installed, and with the floor: `struct` alone puts a header before a body that exists already, or
reads it. The ways take turns; BENCH_ROUNDS makes it longer.

The libraries start from the fields. Ours starts from a message, whose text is not encoded yet and
whose sender has no type of number yet. "ours, from fields" is the same work as theirs.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable
from functools import partial
from struct import Struct
from types import ModuleType
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.rounds import fastest_ns
from engine.providers.settings import SmppSettings
from engine.providers.smpp.body import (
    ShortMessage,
    decode_message_id,
    decode_short_message,
    encode_message_id,
    encode_short_message,
)
from engine.providers.smpp.codes import Command
from engine.providers.smpp.pdu import Pdu, Reader, pack
from engine.providers.smpp.receipt import ReceiptReader
from engine.providers.smpp.submit import SubmitEncoder
from engine.providers.smpp.verdicts import kind
from engine.records import Encoding, Message

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "20"))
CALLS = 500
# The libraries in Python take 20 to 200 times as long.
CALLS_LIBRARY = 50
NOW_US = 1_795_335_960_000_000
CHUNK = 100
SUBMIT_US_MAX = 4.0
ANSWER_US_MAX = 2.0

SUBMIT_SM = int(Command.submit_sm)
CODE = "Your verification code is 482913. It expires in five minutes; do not share it with anyone. Thank you"
PERSIAN = "کد تأیید شما ۴۸۲۹۱۳ است. این کد تا پنج دقیقه معتبر است؛ آن را به کسی"
RECEIPT = (
    "id:0123456789abcdef sub:001 dlvrd:001 submit date:2611220826 done date:2611220827 "
    "stat:DELIVRD err:000 text:Your verification co"
)
HEADER = Struct(">IIII")


def message(text: str, encoding: Encoding, segments: int = 1) -> Message:
    """A message with this text, valid for 300 s."""
    return Message(
        id="01930000-0000-7000-8000-00000000abcd",
        organisation_id=7,
        to="+989121234567",
        text=text,
        sender="Acme",
        encoding=encoding,
        segments=segments,
        units=segments,
        accepted_at_us=NOW_US,
        expires_at_us=NOW_US + 300_000_000,
    )


def library(name: str) -> ModuleType | None:
    """The module of that name, None when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def many(call: Callable[[], object], times: int) -> None:
    """Call `times` times."""
    for _ in range(times):
        call()


def us_each(ways: dict[str, Callable[[], object]], calls: int, items: int = 1) -> dict[str, float]:
    """Microseconds for each of the `items` that one call of a way handles."""
    timed = {name: partial(many, way, calls) for name, way in ways.items()}
    return {name: ns / 1e3 for name, ns in fastest_ns(timed, calls * items, ROUNDS).items()}


def show(title: str, us: dict[str, float], benchmark: BenchmarkFixture, ours: str = "ours") -> None:
    """Print the microseconds of each way and their ratio to `ours`, and keep them in `extra_info`."""
    print(f"\n{title}")
    for way, time_us in us.items():
        print(f"  {way:24} {time_us:8.2f} µs  {time_us / us[ours]:7.2f} of {ours}")
    benchmark.extra_info.update(us)


class Numbers:
    """Gives smpplib the sequence numbers that it asks a client for."""

    sequence = 1

    def next_sequence(self) -> int:
        """Always 1."""
        return self.sequence


def submits_of_libraries(m: ShortMessage) -> dict[str, Callable[[], object]]:
    """Ways to write `m` as a submit_sm with the installed libraries, by library."""
    ways: dict[str, Callable[[], object]] = {}
    fields: dict[str, Any] = {
        "source_addr_ton": m.source_ton,
        "source_addr_npi": m.source_npi,
        "source_addr": m.source,
        "dest_addr_ton": m.destination_ton,
        "dest_addr_npi": m.destination_npi,
        "destination_addr": m.destination,
        "validity_period": m.validity_period,
        "registered_delivery": m.registered_delivery,
        "data_coding": m.data_coding,
        "short_message": m.short_message,
    }
    if smpp34 := library("smpp34"):
        ways["smpp34"] = lambda: smpp34.SubmitSm(sequence_number=1, **fields).encode()
    if smpplib := library("smpplib.smpp"):
        ways["smpplib"] = lambda: smpplib.make_pdu("submit_sm", client=Numbers(), **fields).generate()
    return ways


def reads_of_libraries(wire: bytes) -> dict[str, Callable[[], object]]:
    """Ways to read one PDU with the installed libraries, by library."""
    ways: dict[str, Callable[[], object]] = {}
    if smpp34 := library("smpp34"):
        ways["smpp34"] = lambda: smpp34.decode(wire)
    if smpplib := library("smpplib.smpp"):
        ways["smpplib"] = lambda: smpplib.parse_pdu(wire, client=Numbers(), allow_unknown_opt_params=True)
    if pdu3 := library("smpp.pdu.pdu_encoding"):
        ways["smpp.pdu3"] = lambda: pdu3.PDUEncoder().decode(io.BytesIO(wire))
    return ways


@pytest.mark.parametrize(
    ("name", "text", "encoding", "values"),
    [
        ("GSM-7, 100 characters", CODE[:100], "GSM-7", {}),
        ("GSM-7, with 2 of the extension table", CODE[:98] + "[]", "GSM-7", {}),
        ("GSM-7, packed", CODE[:100], "GSM-7", {"gsm7": "packed"}),
        ("GSM-7, as Latin-1", CODE[:100], "GSM-7", {"gsm7": "latin1"}),
        ("UCS-2, 70 characters", PERSIAN[:70], "UCS-2", {}),
    ],
)
def test_submit_sm_of_one_segment(
    benchmark: BenchmarkFixture, name: str, text: str, encoding: Encoding, values: dict[str, Any]
) -> None:
    encoder = SubmitEncoder(SmppSettings(name="provider", host="localhost", system_id="us", **values))
    of = message(text, encoding)
    [body] = encoder.bodies(of, NOW_US)
    fields = decode_short_message(body)
    us = us_each(
        {
            "floor": lambda: HEADER.pack(16 + len(body), SUBMIT_SM, 0, 1) + body,
            "ours": lambda: pack(SUBMIT_SM, 0, 1, encoder.bodies(of, NOW_US)[0]),
            "ours, from fields": lambda: pack(SUBMIT_SM, 0, 1, encode_short_message(fields)),
        },
        CALLS,
    )
    us |= us_each(submits_of_libraries(fields), CALLS_LIBRARY)
    show(f"submit_sm, {name}", us, benchmark)
    benchmark.pedantic(many, (lambda: encoder.bodies(of, NOW_US), CALLS), rounds=5)  # type: ignore[no-untyped-call]
    assert us["ours"] <= SUBMIT_US_MAX


@pytest.mark.parametrize("concatenation", ["udh", "sar", "payload"])
def test_submit_sm_of_three_segments(benchmark: BenchmarkFixture, concatenation: Any) -> None:
    settings = SmppSettings(name="provider", host="localhost", system_id="us", concatenation=concatenation)
    encoder, of = SubmitEncoder(settings), message((CODE * 5)[:450], "GSM-7", 3)
    us = us_each({"ours": lambda: encoder.bodies(of, NOW_US)}, CALLS)
    show(f"submit_sm, three segments, {concatenation}, all of them", us, benchmark)
    benchmark.pedantic(many, (lambda: encoder.bodies(of, NOW_US), CALLS), rounds=5)  # type: ignore[no-untyped-call]


def test_submit_sm_resp_out_of_the_stream(benchmark: BenchmarkFixture) -> None:
    answers = [
        pack(Command.submit_sm_resp, 0, n, encode_message_id(f"{n:016x}")) for n in range(1, CHUNK + 1)
    ]
    chunk, length = b"".join(answers), len(answers[0])
    reader = Reader()

    def ours() -> None:
        for pdu in reader.feed(chunk):
            if type(pdu) is Pdu:
                kind(pdu.status)
                decode_message_id(pdu.body)

    def floor() -> None:
        for at in range(0, len(chunk), length):
            HEADER.unpack_from(chunk, at)

    us = us_each({"floor": floor, "framing alone": lambda: reader.feed(chunk), "ours": ours}, 20, CHUNK)
    us |= us_each(reads_of_libraries(answers[0]), CALLS_LIBRARY)
    show(f"submit_sm_resp, {CHUNK} in a chunk; the libraries get them cut already", us, benchmark)
    benchmark.pedantic(many, (ours, 20), rounds=5)  # type: ignore[no-untyped-call]
    assert us["ours"] <= ANSWER_US_MAX


def test_deliver_sm_with_a_receipt(benchmark: BenchmarkFixture) -> None:
    delivered = ShortMessage(
        source_ton=1,
        source_npi=1,
        source="989121234567",
        destination_ton=3,
        destination="1001",
        esm_class=4,
        short_message=RECEIPT.encode(),
        parameters={0x001E: b"0123456789abcdef\0", 0x0427: b"\x02"},
    )
    body = encode_short_message(delivered)
    wire = pack(Command.deliver_sm, 0, 1, body)
    reader = ReceiptReader(SmppSettings(name="provider", host="localhost", system_id="us"))
    us = us_each(
        {
            "body alone": lambda: decode_short_message(body),
            "ours": lambda: reader.read(decode_short_message(body), NOW_US),
        },
        CALLS,
    )
    us |= us_each(reads_of_libraries(wire), CALLS_LIBRARY)
    show("deliver_sm with a receipt; the libraries leave the receipt's text unread", us, benchmark)
    benchmark.pedantic(many, (lambda: decode_short_message(body), CALLS), rounds=5)  # type: ignore[no-untyped-call]
