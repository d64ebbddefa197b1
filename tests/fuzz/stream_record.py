"""Records on Redis streams that another version wrote, or nobody of ours: read, or set aside.

The first octet chooses the stream. What was read goes on to the next step that looks into it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from struct import pack

import msgspec

from engine.activity.blocks import block_of, oldest, rows_in
from engine.activity.records import ActivityEntry, MessageKey
from engine.activity.row import row_of
from engine.bundle_format import payloads_of, record
from engine.providers import presets
from engine.providers.http.description import describe
from engine.providers.http.escapes import Unencodable
from engine.providers.http.template import RequestTemplate
from engine.providers.settings import HttpSettings
from engine.providers.smpp.submit import SubmitEncoder
from engine.receipts.batch import Search
from engine.receipts.ports import LateEntry
from engine.receipts.records import LateReceipt, Receipt
from engine.receipts.rounds import _pending
from engine.routing.records import Route, RoutingPlan
from engine.stores.redis.activity_stream import unpacked
from engine.stores.redis.queue_wire import decoded
from engine.stores.redis.routing_copy import RoutingCopy
from engine.stores.redis.tail_search import TailSearch
from engine.stream_id import StreamId
from tests.activity.test_columns import assert_same
from tests.fuzz.smpp_pdu import SETTINGS
from tests.fuzz.target import Check, Target, bench
from tests.providers.carrier import message

_encode = msgspec.msgpack.encode
_RECEIPT = Receipt(
    provider="acme", provider_message_id="0A1", state="delivered", code="DELIVRD 000", at_us=77, to="98",
    message_id=message().id,
)  # fmt: skip
_ROW = row_of(message(), message().id, "express", "accepted", 77)
DEEP = b"\x91" * 2000 + b"\x90"
WORDS = (
    b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc0", b"\xc1", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xa1\xff",
    b"\xd9\x02\xc3\x28", b"\x91" * 40, b"\xcb\x7f\xf0\0\0\0\0\0\0", b"\xc7\x0c\xff", b"\x80", b"\xc4\x01a",
    b"\xff",
    _encode(_RECEIPT), _encode(_ROW),
)  # fmt: skip


def seeds() -> list[bytes]:
    longest = message(2, "x" * 300 + "\u20ac", sender="", encoding="UCS-2", segments=5)
    again = msgspec.structs.replace(message(3), attempts=2, reference="r", tried=("a", "b"))
    plan = RoutingPlan(version=3, routes=(Route(prefix="+98", providers=("a",)),), throughput={"a": 1.5})
    return [
        *(b"\0" + _encode(one) for one in (message(), longest, again)),
        b"\0\xc1\x01" + pack(">HQ", 2, 9) + record(1, _encode(message())) + record(5, _encode(longest)),
        *(b"\0" + _encode([*msgspec.to_builtins(message())[:n], 1]) for n in (9, 10)),
        b"\1\xdd\0\0\0\2" + 2 * _encode(_ROW),
        b"\2" + _encode([_ROW, [*msgspec.to_builtins(_ROW), "newer"], msgspec.to_builtins(_ROW)[:12]]),
        b"\2\0\0\0\2" + 2 * _encode(_ROW),
        b"\2" + _encode(_ROW),
        b"\3" + _encode([_RECEIPT, _RECEIPT]),
        b"\4" + _encode(LateReceipt(receipt=_RECEIPT, tries=3)),
        b"\5" + _encode([_ROW]),
        *(b"\5" + _encode([_misfit(wrong), _ROW]) for wrong in ("message_id", "event", "due_at_us")),
        b"\6" + _encode(plan),
        # Deeper than the decoder goes, where a newer version may have added a value.
        b"\0" + _encode([*msgspec.to_builtins(message()), 1])[:-1] + DEEP,
        *(bytes([n]) + b"\x91" + DEEP for n in (1, 3, 5)),
    ]  # fmt: skip


def _misfit(wrong: str) -> list[object]:
    """A row of a scheduled message of which one value is a list."""
    row = {**msgspec.structs.asdict(_ROW), "event": "scheduled", wrong: [message().id]}
    return list(row.values())


class _Link:
    """In place of a `RedisLink`: the reply is what the input says."""

    def __init__(self, found: bytes) -> None:
        self._found = found

    async def call(self, *_: object) -> list[bytes]:
        return [self._found]


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    settings = [
        HttpSettings(name="p", preset=name, url="http://h", username="u", password="p")
        for name in presets.names()
    ]
    templates = [describe(one).template for one in settings]
    encoder = SubmitEncoder(SETTINGS)
    with bench() as on:
        reads: list[Callable[[bytes], object]] = [
            partial(_queued, encoder, templates),
            _activity,
            # As a block of the extension, whatever the first octet is.
            lambda blob: assert_same([_entry(b"\xdd" + blob), _entry(b"\xdd\0\0\0\1" + blob)]),
            _receipts,
            _late_receipt,
            _looked_up,
            lambda blob: on.run(RoutingCopy(_Link(blob)).newest()),  # type: ignore[arg-type]
        ]
        yield partial(check, reads)


def check(reads: list[Callable[[bytes], object]], data: bytes) -> None:
    if data:
        reads[data[0] % len(reads)](data[1:])


def _entry(blob: bytes) -> ActivityEntry:
    return ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob)


def _queued(encoder: SubmitEncoder, templates: list[RequestTemplate], payload: bytes) -> None:
    messages = len(payloads_of(payload))
    assert messages >= 1
    # The note of a bundle is fuzzed with it: its first octets are as good as any.
    for note in (b"", payload[:7]):
        entries, undecodable = decoded(0, "normal", [(b"1-0", payload, 1, note, b"", b"")])
        assert len(entries) + len(undecodable) == messages - note[:messages].count(b"x")
    entries, _ = decoded(0, "normal", [(b"1-0", payload, 1, b"", b"", b"")])
    for entry in entries:
        with contextlib.suppress(ValueError):
            encoder.bodies(entry.message, 77)
        for template in templates:
            with contextlib.suppress(Unencodable):
                template.build(entry.message, 77)


def _activity(blob: bytes) -> None:
    assert rows_in(_entry(blob)) >= 1
    assert oldest([_entry(blob)], 10)[0]
    good = _entry(_encode([_ROW]))
    block, unreadable = block_of([good, _entry(blob), good])
    assert block.rows >= 2, "a bad entry took the others with it"
    assert len(block.columns[-1]) == 4 * block.rows, "the columns have different lengths"
    assert bool(unreadable) <= (block.rows == 2)


def _looked_up(blob: bytes) -> None:
    key = MessageKey(organisation_id=message().organisation_id, message_id=message().id, accepted_at_us=0)
    search = TailSearch([key], unpacked, 10)
    # Two pages: what the first one says decides where the second begins.
    search.take([_entry(_encode([_ROW])), _entry(blob)], last=False)
    search.take([_entry(blob)], last=True)
    assert search.found[key].rows, "a bad entry took the others with it"


def _receipts(blob: bytes) -> None:
    pending = _pending([_entry(_encode([_RECEIPT])), _entry(blob)], [])
    assert pending.receipts, "a bad entry took the others with it"
    _search(pending.receipts)


def _late_receipt(member: bytes) -> None:
    pending = _pending(
        [], [LateEntry(0, _encode(LateReceipt(receipt=_RECEIPT, tries=1))), LateEntry(0, member)]
    )
    assert pending.receipts, "a bad entry took the others with it"
    _search(pending.receipts)


def _search(receipts: list[Receipt]) -> None:
    search = Search(receipts, {}, 1)
    search.first_keys()
    search.learn({})
    search.further_keys()
    search.message_ids()
    search.learn({}, {})
    assert len(search.outcomes) == len(receipts)


TARGET = Target("stream_record", seeds, opened, WORDS, octets_max=3000)
