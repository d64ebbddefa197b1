"""What is done for many messages in one call is what is done for each of them."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.delivery._many import (
    ages_of,
    count_given,
    end_all,
    messages_of,
    note_begun,
    oldest_of,
    plain_entries,
    segments_of,
    take_first,
)
from engine.message_format import NewerMessage
from engine.records import Entry, Message, ScheduledMessage, due_at_us_of

# The last time that counts as valid, and the first that is not.
NOW_US = 1_000


def message_of(
    segments: int, unknown_sends: int, expires_at_us: int, accepted_at_us: int, due_at_us: int, newer: bool
) -> Message:
    fields: dict[str, object] = {
        "id": "m", "organisation_id": 1, "to": "+98912", "sender": "", "text": "Hi", "encoding": "GSM-7",
        "segments": segments, "units": 1, "accepted_at_us": accepted_at_us, "expires_at_us": expires_at_us,
        "unknown_sends": unknown_sends,
    }  # fmt: skip
    if newer:
        return NewerMessage(**fields, due_at_us=due_at_us, added=(1,))  # type: ignore[arg-type]
    if due_at_us:
        return ScheduledMessage(**fields, due_at_us=due_at_us)  # type: ignore[arg-type]
    return Message(**fields)  # type: ignore[arg-type]


messages = st.builds(
    message_of,
    st.integers(1, 300),
    st.sampled_from([0, 0, 0, 2]),
    st.sampled_from([NOW_US - 1, NOW_US, NOW_US + 1, 10**15, 10**15]),
    st.integers(0, 10**15),
    st.one_of(st.just(0), st.integers(1, 10**15)),
    st.booleans(),
)
entries = st.builds(
    Entry,
    shard=st.integers(0, 2),
    queue=st.just("normal"),
    entry_id=st.just(b"1-1"),
    message=messages,
    deliveries=st.sampled_from([1, 1, 1, 2]),
)
pairs = st.lists(st.tuples(entries, st.sampled_from([1.0, 2.0, 3])), max_size=8)


@given(st.lists(entries, max_size=8), st.integers(0, 10**15))
def test_what_they_have_together(some: list[Entry], at_us: int) -> None:
    assert all(a is b.message for a, b in zip(messages_of(some), some, strict=True))
    assert segments_of(deque(some)) == sum(entry.message.segments for entry in some)
    since_us = [max(entry.message.accepted_at_us, due_at_us_of(entry.message)) for entry in some]
    assert ages_of(some, at_us) == [at_us - at for at in since_us]


@given(pairs, st.integers(0, 8))
def test_the_first_are_taken_in_order(some: list[tuple[Entry, float]], count: int) -> None:
    waiting = deque(some)
    if count > len(some):
        with pytest.raises(IndexError):
            take_first(waiting, count)
        return
    taken, segments = take_first(waiting, count)
    assert (taken, list(waiting)) == (some[:count], some[count:])
    assert segments == sum(entry.message.segments for entry, _ in taken)


def entry_of(deliveries: int = 1, unknown_sends: int = 0, expires_at_us: int = NOW_US + 1) -> Entry:
    message = message_of(1, unknown_sends, expires_at_us, 0, 0, False)
    return Entry(shard=0, queue="normal", entry_id=b"1-1", message=message, deliveries=deliveries)


@given(pairs)
@example([(entry_of(), 2.0)])
@example([(entry_of(), 1.0)])
@example([(entry_of(), 2.0), (entry_of(deliveries=2), 2.0)])
@example([(entry_of(unknown_sends=1), 2.0)])
@example([(entry_of(expires_at_us=NOW_US), 2.0)])
def test_entries_are_plain_only_when_each_is(some: list[tuple[Entry, float]]) -> None:
    plain = all(
        entry.deliveries == 1
        and not entry.message.unknown_sends
        and read_at_s >= 2.0
        and entry.message.expires_at_us > NOW_US
        for entry, read_at_s in some
    )
    assert plain_entries(some, 2.0, NOW_US) == ([entry for entry, _ in some] if plain else None)


@given(st.lists(entries, min_size=1, max_size=6), st.integers(1, 2**40), st.data())
def test_sends_that_begin_and_end(some: list[Entry], first: int, data: st.DataObject) -> None:
    by_token: dict[int, Entry] = {}
    began_s: dict[int, float] = {}
    note_begun(by_token, began_s, some[:2], first, 2.0)
    note_begun(by_token, began_s, some[2:], first + len(some[:2]), 3.0)
    assert by_token == dict(enumerate(some, first))
    known = list(by_token)
    tokens = data.draw(st.lists(st.sampled_from([*known, first + len(some)]), max_size=6))
    ordinary = tokens and len(set(tokens)) == len(tokens) and set(tokens) <= set(known)
    assert oldest_of(began_s, tokens) == (min(map(began_s.__getitem__, tokens)) if ordinary else None)
    if ordinary:
        expected = [by_token[token] for token in tokens], [5.0 - began_s[token] for token in tokens]
        assert end_all(by_token, began_s, tokens, 5.0) == expected
        assert set(by_token) == set(began_s) == set(known) - set(tokens)
    else:
        with pytest.raises(KeyError):
            end_all(by_token, began_s, [first + len(some)], 5.0)


@given(st.lists(entries, max_size=12))
def test_what_was_given_is_counted_by_shard(some: list[Entry]) -> None:
    messages, segments = dict.fromkeys(range(3), 0), dict.fromkeys(range(3), 1)
    count_given(some, messages, segments)
    for shard in range(3):
        own = [entry for entry in some if entry.shard == shard]
        assert messages[shard] == len(own)
        assert segments[shard] == 1 + sum(entry.message.segments for entry in own)
