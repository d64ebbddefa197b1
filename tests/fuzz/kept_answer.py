"""Answers kept with Idempotency-Keys, damaged or of an unknown version: unreadable, or rendered again.

The first octet chooses as how many outcomes the request has; the rest is what was kept.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import msgspec

from engine.api.messages import render_batch
from engine.errors import Refusal
from engine.ids import MessageIds
from engine.intake.kept_answer import Outcome, Unreadable, pack, unpack
from engine.records import Accepted
from tests.fuzz.target import Check, Target

COUNTS = (1, 3, 40, 1000)
_encode = msgspec.msgpack.encode
WORDS = (
    b"\x01", b"\x02", b"\x03", b"{", b"[", b"\x93\xc4\x10", b"\xc4\x10", b"\x90", b"\x91", b"\x94", b"\x95",
    b"\xc0", b"\xff", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\xcd\x03\xe8", b"\xdc\xff\xff", b"\xa1\xff",
    b"\x80", b"\xcd\x01\xa6",
)  # fmt: skip


def seeds() -> list[bytes]:
    found: list[bytes] = []
    for place, count in enumerate(COUNTS):
        ids = MessageIds(1, 7).make(1_790_000_000_000, count)
        outcomes: list[Outcome] = [
            Refusal("invalid_number", 422, "`to` must be a number.", "to")
            if n % 3 == 1
            else _accepted(one, n)
            for n, one in enumerate(ids)
        ]
        kept = pack(outcomes)
        plain = kept[1:] if kept[:1] == b"\x01" else zlib.decompress(kept[1:])
        found += [bytes([place]) + kept, bytes([place]) + b"\x01" + plain]
    return [*found, b'\0{"id":"a"}', b'\1[{"id":"a"}]', b"\0", b"\0\x01" + _encode([bytes(16), [], []])]


def _accepted(message_id: str, n: int) -> Accepted:
    return Accepted(
        id=message_id,
        status="accepted",
        queue="normal",
        segments=1 + n % 2,
        encoding="UCS-2",
        units=1 + n % 2,
    )


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    yield check


def check(data: bytes) -> None:
    if not data:
        return
    count = COUNTS[data[0] % len(COUNTS)]
    try:
        outcomes = unpack(data[1:], count)
    except Unreadable:
        return
    if outcomes is None:
        msgspec.json.decode(data[1:])
        return
    assert len(outcomes) == count
    assert len(msgspec.json.decode(render_batch(outcomes))["results"]) == count
    if any(isinstance(one, Accepted) for one in outcomes):
        again = unpack(pack(outcomes), count)
        assert again is not None
        assert render_batch(again) == render_batch(outcomes), "it says something else when it is packed again"


TARGET = Target("kept_answer", seeds, opened, WORDS, octets_max=3000)
