"""What is settled together comes to what is settled one by one."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.delivery.breaker import WINDOW, Breaker
from engine.delivery.in_flight import InFlight
from engine.delivery.sent import added_up, sent_entries
from engine.delivery.settlement import RetryPauses, after_verdict
from engine.message_format import NewerMessage
from engine.records import (
    NO_RECEIPTS,
    RECEIPTS_BY_ANY_ID,
    RECEIPTS_BY_THEIR_ID,
    Entry,
    Message,
    ScheduledMessage,
    Verdict,
)
from tests.stores.redis.kit import message

PAUSES = RetryPauses(first_us=1, max_us=1)
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode


def entry(number: int, **changes: object) -> Entry:
    queue = "express" if number % 2 else "normal"
    of = message(f"m{number}", accepted_at_us=1000, **changes)
    return Entry(shard=0, queue=queue, entry_id=b"%d-0" % number, message=of)  # type: ignore[arg-type]


def scheduled(of: Message, due_at_us: int, *, newer: bool) -> Message:
    """The message with a later time, of this version or as a newer one wrote it."""
    if newer:
        return NewerMessage(**msgspec.structs.asdict(of), due_at_us=due_at_us, added=("new",))
    return ScheduledMessage(**msgspec.structs.asdict(of), due_at_us=due_at_us) if due_at_us else of


texts = st.text(max_size=8)


@given(
    st.lists(st.tuples(texts, texts, st.integers(1, 9), st.integers(0, 5), texts), max_size=6),
    st.integers(0, 2000),
    texts,
    st.integers(0, 2),
)
def test_rows_of_accepted_messages_are_those_of_their_verdicts(
    messages: list[tuple[str, str, int, int, str]], now_us: int, code: str, receipts_by: int
) -> None:
    entries = [
        entry(n, sender=sender, reference=reference, segments=segments, attempts=attempts)
        for n, (sender, reference, segments, attempts, _) in enumerate(messages)
    ]
    ids, times = [of[4] for of in messages], [n * 100 for n in range(len(messages))]
    sent = sent_entries(entries, ids, times, provider="p", code=code, now_us=now_us, receipts_by=receipts_by)
    verdicts = [
        Verdict(kind="accepted", provider="p", provider_message_id=i, code=code, latency_us=took)
        for i, took in zip(ids, times, strict=True)
    ]
    settlements = [
        after_verdict(e, v, now_us, PAUSES, Random(1), receipts_by=receipts_by)
        for e, v in zip(entries, verdicts, strict=True)
    ]
    # Where it is not known how receipts name them, these end before that, and before the text, which only an
    # acceptance has.
    whole = [decode(encode(settlement.row)) for settlement in settlements]
    assert [decode(row) for row in sent.rows] == [row if receipts_by else row[:-2] for row in whole]
    assert all(settlement.outcome == "captured" for settlement in settlements)
    assert added_up([sent, sent]) == 2 * len(entries)


numbers = st.sampled_from(
    [edge + by for edge in (0, 32, 128, 256, 32_768, 65_536, 2**31, 2**32, 2**62) for by in (-1, 0, 1)]
)
lengths = st.sampled_from([0, 31, 32, 255, 256, 65_535, 65_536])


@given(
    st.lists(numbers, min_size=6, max_size=6),
    st.sampled_from([0, 0, 127, 128, 2**32, 1_795_335_960_000_000]),
    st.booleans(),
    st.booleans(),
    lengths,
    st.sampled_from(["a", "é", "\U0001f4a9"]),
    st.sampled_from([RECEIPTS_BY_ANY_ID, RECEIPTS_BY_THEIR_ID, NO_RECEIPTS]),
)
def test_rows_have_the_shortest_form_of_each_value(
    values: list[int],
    due_at_us: int,
    newer: bool,
    negative: bool,
    length: int,
    character: str,
    receipts_by: int,
) -> None:
    organisation_id, segments, units, accepted_at_us, now_us, took_us = values
    took_us = -took_us if negative else took_us
    of = msgspec.structs.replace(
        message("m"), organisation_id=organisation_id, segments=segments, units=units,
        accepted_at_us=accepted_at_us, reference=character * length,
    )  # fmt: skip
    message_due = scheduled(of, due_at_us, newer=newer)
    one = Entry(shard=0, queue="normal", entry_id=b"1-0", message=message_due)
    [row] = sent_entries(
        [one], ["id"], [took_us], provider="p", code=character, now_us=now_us, receipts_by=receipts_by
    ).rows
    whole = after_verdict(
        one,
        Verdict(kind="accepted", provider="p", provider_message_id="id", code=character, latency_us=took_us),
        now_us,
        PAUSES,
        Random(1),
        receipts_by=receipts_by,
    ).row
    assert whole is not None
    assert whole.due_at_us == due_at_us
    # Nothing stands behind the last value that says something.
    values_said = decode(encode(whole)) if receipts_by else decode(encode(whole))[:-2]
    assert row == encode(values_said)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 60))
def test_a_closed_circuit_counts_messages_accepted_together_as_one_after_another(
    failed: list[bool], count: int
) -> None:
    together, one_by_one = (Breaker(failures=40, pause_s=1.0) for _ in range(2))
    for breaker in (together, one_by_one):
        for one in failed:
            breaker.ended("temporary" if one else "accepted", 1.0, 1.0)
    if together.all_accepted(count, 1.0):
        for _ in range(count):
            one_by_one.ended("accepted", 1.0, 1.0)
        for breaker in (together, one_by_one):
            for _ in range(WINDOW):
                breaker.ended("temporary", 2.0, 2.0)
    assert (together.state, together._in_a_row, together._recent) == (
        one_by_one.state,
        one_by_one._in_a_row,
        one_by_one._recent,
    )


@given(st.integers(1, 50), st.integers(0, 50), st.floats(0.001, 5.0))
def test_answers_that_took_the_same_time_are_noted_together_as_one_after_another(
    count: int, before: int, took_s: float
) -> None:
    together, one_by_one = InFlight(10.0), InFlight(10.0)
    entries = [entry(n) for n in range(count)]
    for flying in (together, one_by_one):
        for _ in range(before):
            flying.ended(flying.began([entry(0)], 0.0), "accepted", 0.5)
        assert flying.began(entries, 1.0) == before + 1
    tokens = list(range(before + 1, before + count + 1))
    now_s = 1.0 + took_s
    oldest_s = together.oldest_s(tokens)
    assert oldest_s == 1.0
    assert together.all_ended(tokens, oldest_s, now_s) == [
        one_by_one.ended(token, "accepted", now_s) for token in tokens
    ]
    assert (together.in_flight, together.expected) == (one_by_one.in_flight, one_by_one.expected) == (0, 0)
    assert abs(together.usual_s - one_by_one.usual_s) < 1e-9
    # Of one after another, the slowest is forgotten a little with each answer.
    assert 0 <= together.patience_s() - one_by_one.patience_s() <= 1e-9


def test_a_token_out_of_the_ordinary_is_noticed() -> None:
    flying = InFlight(10.0)
    first = flying.began([entry(n) for n in range(6)], 1.0)
    tokens = list(range(first, first + 6))
    assert flying.oldest_s(tokens) == 1.0
    assert flying.oldest_s([first, first]) is None
    assert flying.oldest_s([first, first + 6]) is None
    flying.give_up(first + 1)
    assert flying.oldest_s(tokens) is None
    assert flying.oldest_s(tokens[2:]) == 1.0
    flying.ended(first + 2, "accepted", 2.0)
    assert flying.oldest_s(tokens[2:]) is None
    flying.stalled(2.0)
    assert flying.oldest_s(tokens[3:]) is None
