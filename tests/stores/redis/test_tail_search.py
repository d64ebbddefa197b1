"""The search for several messages in one pass through the tail of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.activity.records import ActivityEntry, MessageKey, RecentRows
from engine.records import ActivityRow
from engine.stores.redis import tail_search
from engine.stores.redis.tail_search import TailSearch
from engine.stream_id import StreamId
from tests.activity.world import T0, blob_of, make_row

MS = T0 // 1000
_rows = msgspec.msgpack.Decoder(list[list[Any]])


def entry(after_ms: int, *rows: ActivityRow) -> ActivityEntry:
    return ActivityEntry(shard=0, id=StreamId(MS + after_ms, 0), blob=blob_of(list(rows)))


def found_in(
    stream: Sequence[ActivityEntry], keys: Sequence[MessageKey], *, page: int = 3, entries_max: int = 1000
) -> tuple[dict[MessageKey, RecentRows], int]:
    """(what a search finds, how many pages it read)."""
    search = TailSearch(keys, lambda e: _rows.decode(e.blob), entries_max)
    pages = 0
    while (start := search.start) is not None:
        part = [e for e in stream if e.id >= start][:page]
        search.take(part, last=len(part) < page)
        pages += 1
    return search.found, pages


def message(number: int, **values: Any) -> ActivityRow:
    return make_row(3 * number, organisation_id=1, **values)


def key_of(row: ActivityRow) -> MessageKey:
    return MessageKey(row.organisation_id, row.message_id, row.accepted_at_us)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 5))
def test_one_pass_finds_of_each_message_what_a_pass_of_its_own_finds(of: list[int], page: int) -> None:
    stream = [entry(n * 10, message(number, attempt=n)) for n, number in enumerate(of)]
    keys = [key_of(message(number)) for number in range(10)]
    together, _ = found_in(stream, keys, page=page)
    assert together == {key: found_in(stream, [key], page=page)[0][key] for key in keys}
    assert [len(together[key].rows) for key in keys] == [of.count(number) for number in range(10)]


def test_a_message_that_is_delivered_and_charged_is_looked_for_no_further() -> None:
    events = ("accepted", "sent", "delivered")
    stream = [entry(n, message(0, event=event, attempt=1)) for n, event in enumerate(events)]
    stream += [entry(100 + n, message(7)) for n in range(50)]
    found, pages = found_in(stream, [key_of(message(0))])
    assert [row.event for row in found[key_of(message(0))].rows] == list(events)
    assert found[key_of(message(0))].complete
    assert pages == 1
    # Its `sent` is still to come: without it the charge would be shown as held.
    _, pages = found_in([stream[0], stream[2], *stream[3:]], [key_of(message(0))])
    assert pages > 10


def test_a_search_reads_no_further_than_so_many_octets_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = [entry(n, message(n)) for n in range(100)]
    size = len(stream[0].blob)
    monkeypatch.setattr(tail_search, "_OCTETS_MAX", 10 * size)
    found, pages = found_in(stream, [key_of(message(5)), key_of(message(99))], page=4)
    assert pages == 3
    assert [(len(rows.rows), rows.complete) for rows in found.values()] == [(1, False), (0, False)]


def test_a_message_that_is_scheduled_for_later_may_have_events_before_its_time() -> None:
    later = message(0, event="scheduled", due_at_us=T0 + 60_000_000)
    stream = [
        entry(0, later, message(1)),
        entry(10, message(2)),
        entry(20, message(1, event="sent", attempt=1)),
        entry(30, message(0, event="canceled")),
    ]
    found, _ = found_in(stream, [key_of(later), key_of(message(1))], page=1)
    assert [row.event for row in found[key_of(later)].rows] == ["scheduled", "canceled"]
    assert [row.event for row in found[key_of(message(1))].rows] == ["accepted", "sent"]


def test_a_message_is_found_although_the_clock_of_redis_was_set_back() -> None:
    # Its time goes on from before; the ids of entries stay at the highest.
    late = message(0, accepted_at_us=T0 + 3_600_000_000)
    stream = [entry(n, message(1, attempt=n)) for n in range(10)] + [entry(20, late)]
    keys = [key_of(late), key_of(message(1)), key_of(message(2))]
    found, pages = found_in(stream, keys)
    assert [len(found[key].rows) for key in keys] == [1, 10, 0]
    assert all(found[key].complete for key in keys)
    assert pages < 12
    assert found_in([], keys)[1] <= 2


def test_the_bound_counts_the_entries_of_each_message_by_itself() -> None:
    """A message of long ago does not use up the search of one that has just been accepted."""
    stream = [entry(n * 1000, message(9)) for n in range(20)]
    young = message(1, accepted_at_us=T0 + 19_000_000)
    stream.append(entry(19_500, young))
    found, _ = found_in(stream, [key_of(message(0)), key_of(young)], entries_max=6)
    assert not found[key_of(message(0))].complete
    assert found[key_of(young)] == RecentRows(rows=[young], complete=True)


def test_a_message_of_another_organisation_is_not_found() -> None:
    own = message(0)
    foreign = MessageKey(2, own.message_id, own.accepted_at_us)
    assert found_in([entry(0, own)], [foreign])[0] == {foreign: RecentRows(rows=[], complete=True)}
