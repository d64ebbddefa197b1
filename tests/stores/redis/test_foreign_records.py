"""What stands on a stream and is no record of ours is told apart from those beside it, whatever it is."""

from __future__ import annotations

import msgspec
import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry, MessageKey
from engine.activity.row import row_of
from engine.bundle_format import record
from engine.receipts.ports import LateEntry
from engine.receipts.records import LateReceipt, Receipt
from engine.receipts.rounds import _pending
from engine.records import ActivityRow
from engine.stores.redis.activity_stream import unpacked
from engine.stores.redis.queue_wire import decoded
from engine.stores.redis.tail_search import TailSearch
from engine.stream_id import StreamId
from tests.providers.carrier import message
from tests.simulation.ready import bundled

MESSAGE = message()
ROW = row_of(MESSAGE, MESSAGE.id, "express", "accepted", 77)
RECEIPT = Receipt(provider="acme", provider_message_id="A1", state="delivered", code="", at_us=77)
LATE = LateReceipt(receipt=RECEIPT, tries=1)
DEEP = b"\x91" * 5000 + b"\x90"


def encoded(record: object) -> bytes:
    return msgspec.msgpack.encode(record)


def entry(blob: bytes) -> ActivityEntry:
    return ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob)


def foreign(record: object) -> list[bytes]:
    """Records like this one, which none of ours wrote."""
    longer = encoded([*msgspec.to_builtins(record), 1])
    text = encoded(record).replace(b"e", b"\xff")
    return [b"", b"junk", b"\xc1", encoded(record)[:-1], encoded(record) + b"\0", text, longer[:-1] + DEEP]


@pytest.mark.parametrize("payload", foreign(MESSAGE))
def test_a_payload_that_is_no_message_is_told_from_the_others(payload: bytes) -> None:
    good = encoded(MESSAGE)
    raw = [(b"%d-0" % n, one, 1, b"", b"", b"") for n, one in enumerate((good, payload, good), 1)]
    entries, undecodable = decoded(0, "normal", raw)
    assert [one.entry_id for one in entries] == [b"1-0", b"3-0"]
    assert [one.payload for one in undecodable] == [payload]
    # In one bundle, of which the last message is settled.
    bundle = bundled([record(1, one) for one in (good, payload, good, good)])
    entries, undecodable = decoded(0, "normal", [(b"1-0", bundle, 1, b"...x", b"", b"")])
    assert [(one.place, one.bundle) for one in entries] == [(0, 4), (2, 4)]
    assert [(one.payload, one.place, one.bundle) for one in undecodable] == [(payload, 1, 4)]


@pytest.mark.parametrize("row", [one for one in foreign(ROW) if one != b""])
def test_an_entry_that_has_no_rows_is_told_from_the_others(row: bytes) -> None:
    good, bad = entry(b"\x91" + encoded(ROW)), entry(b"\x91" + row)
    block, unreadable = block_of([good, bad, good])
    assert (block.rows, unreadable) == (2, [bad])


@pytest.mark.parametrize("receipt", foreign(RECEIPT))
def test_an_entry_that_has_no_receipts_is_told_from_the_others(receipt: bytes) -> None:
    bad, late = entry(b"\x91" + receipt), LateEntry(0, receipt)
    pending = _pending([entry(encoded([RECEIPT])), bad], [late, LateEntry(0, encoded(LATE))])
    assert pending.receipts == [RECEIPT, RECEIPT]
    assert pending.unreadable == [bad, late]


def misfits() -> list[bytes]:
    """Rows like `ROW`, and scheduled ones, of which one value is of another kind."""
    fields = ActivityRow.__struct_fields__
    scheduled = msgspec.structs.replace(ROW, event="scheduled", due_at_us=1)
    return [
        encoded([value if name == wrong else given for name, given in zip(fields, row, strict=True)])
        for row in (msgspec.to_builtins(ROW), msgspec.to_builtins(scheduled))
        for wrong in fields
        for value in ([MESSAGE.id], {"a": 1}, None, 1.5)
    ]


@pytest.mark.parametrize("row", [*foreign(ROW), encoded(msgspec.to_builtins(ROW)[:5]), *misfits()])
def test_a_message_is_shown_whatever_stands_beside_its_rows(row: bytes) -> None:
    key = MessageKey(organisation_id=MESSAGE.organisation_id, message_id=MESSAGE.id, accepted_at_us=0)
    search = TailSearch([key], unpacked, 10)
    # Two rows in one entry are readable each on its own, unless the entry is none.
    search.take([entry(b"\x92" + row + encoded(ROW)), entry(b"\x91" + encoded(ROW))], last=True)
    assert set(search.found[key].rows) == {ROW}
