"""What may be trimmed of the usage streams, and when."""

from __future__ import annotations

from engine.credit.ledger_records import Standing
from engine.credit.retention import Retention
from engine.stream_id import StreamId


def at(number: int) -> dict[int, StreamId]:
    return {0: StreamId(number, 0)}


def filled(kept: int | None, keep_s: float = 60.0, entries_max: int = 100) -> Retention:
    """A moment each second for 300 s; as many bytes are written as seconds are over."""
    retention = Retention(keep_s, entries_max)
    for second in range(300):
        retention.note(float(second), at(second + 1), Standing(second, kept))
    return retention


def test_without_standbys_usage_stays_for_its_time() -> None:
    retention = filled(None)
    trim = retention.due(300.0, Standing(300), 10)
    assert trim is not None
    assert (trim.positions, trim.forced) == (at(241), False)
    assert retention.due(300.0, Standing(300), 10) is None
    assert retention.waits_s(300.0) == 0.0


def test_what_a_standby_lacks_stays_longer() -> None:
    retention = filled(100)
    trim = retention.due(300.0, Standing(300, 100, "the standby s"), 10)
    assert trim is not None
    assert (trim.positions, trim.forced) == (at(101), False)
    # It has all there is now.
    assert retention.waits_s(300.0) == 139.0
    trim = retention.due(301.0, Standing(301, 301), 10)
    assert trim is not None
    assert trim.positions == at(242)


def test_memory_bounds_what_a_standby_that_is_away_can_hold_up() -> None:
    retention = filled(100)
    while True:
        trim = retention.due(300.0, Standing(300, 100), 101)
        assert trim is not None
        if trim.forced:
            break
    assert trim.positions == at(102)


def test_an_audit_finds_the_usage_of_the_last_seconds_whatever_the_bounds() -> None:
    retention = filled(None, entries_max=1)
    last = None
    while (trim := retention.due(300.0, Standing(300), 1000)) is not None:
        last = trim.positions
    assert last == at(291)


def test_very_many_moments_take_little_room() -> None:
    retention = Retention(1e9, 100)
    for second in range(100_000):
        retention.note(float(second), at(second + 1), Standing(second))
    assert len(retention._moments) <= 1_000
    assert retention._moments[-1].positions == at(100_000)


def test_books_that_stand_still_are_one_moment() -> None:
    retention = Retention(60.0, 100)
    for second in range(50):
        retention.note(float(second), at(1), Standing(second))
    trim = retention.due(61.0, Standing(61), 1)
    assert trim is not None
    assert trim.positions == at(1)
