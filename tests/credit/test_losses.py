"""Which of the two went back: all that Redis and the books can show of it."""

from __future__ import annotations

from engine.credit.ledger_records import BookedNote, Recovered, ShardLife, StreamMark
from engine.credit.losses import Loss, loss_of
from engine.stream_id import StreamId

TRIMMED = Loss("postgres", "PostgreSQL went back behind the usage that generation g1 has")
BOTH = Loss("both", "PostgreSQL and Redis went back in generation g1")
REDIS = Loss("redis", "Redis went back in generation g1")


def at(ms: int) -> StreamMark:
    return StreamMark(StreamId(ms, 0), f"link{ms}")


def life(*, last: int, follows: str, note: int | None, generation: str = "g1", term: int = 3) -> ShardLife:
    noted = None if note is None else BookedNote("g1", StreamId(note, 0), term)
    return ShardLife(
        shard=0, generation=generation, run="r", seen_run="r", last_position=StreamId(last, 0),
        follows=follows, delivered=5, note=noted,
    )  # fmt: skip


def found(seen: ShardLife, *, booked: int, read: StreamMark | None = None, beyond: str = "") -> Loss:
    """`beyond`: the link that follows the entry that was `read`."""
    recovered = Recovered(
        generations={0: "g1"}, marks={0: at(booked)}, delivered={0: 5}, former={0: frozenset()},
        answers=[], waiting={}, term=4, last_answer=9,
    )  # fmt: skip
    further = life(last=seen.last_position.ms, follows=beyond, note=None) if read else seen
    return loss_of(seen, recovered, read or at(booked), further)


def test_usage_before_the_note_was_trimmed_whoever_leads_next() -> None:
    trimmed = life(last=20, follows="link20", note=20)
    assert found(trimmed, booked=10) == TRIMMED
    assert found(trimmed, booked=10, read=at(20), beyond="link20") == TRIMMED
    # One that led before, and read what another has applied since and trimmed.
    assert found(trimmed, booked=10, read=at(15), beyond="link20") == TRIMMED


def test_what_the_note_or_a_reader_knew_and_redis_lacks_is_lost_with_redis_too() -> None:
    assert found(life(last=15, follows="link15", note=20), booked=10) == BOTH
    trimmed = life(last=20, follows="link20", note=20)
    assert found(trimmed, booked=10, read=at(25), beyond="link20") == BOTH


def test_books_that_are_not_behind_leave_only_redis() -> None:
    assert found(life(last=15, follows="link15", note=15), booked=20) == REDIS
    assert found(life(last=30, follows="link30", note=20), booked=20) == REDIS
    assert found(life(last=20, follows="link20", note=20), booked=20) == Loss()


def test_a_close_that_was_cut_short_keeps_its_cause() -> None:
    cut = life(last=0, follows="g2", note=20, generation="closing:g2")
    assert found(cut, booked=10) == TRIMMED
    assert found(cut, booked=20) == Loss("redis", "Redis lost generation g1")
    both = life(last=0, follows="g2", note=20, generation="closing:g2.both")
    assert found(both, booked=10) == BOTH
