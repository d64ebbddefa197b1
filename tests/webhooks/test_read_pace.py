"""A notifier reads seldom and much where nobody is told, and soon where somebody is."""

from __future__ import annotations

from engine.webhooks.read_pace import APART_MAX_S, APART_S, ENTRIES_MAX, ROWS, UNTOLD_ROWS, ReadPace


def test_reads_are_far_apart_while_nobody_has_an_endpoint() -> None:
    pace = ReadPace()
    pauses = [pace.after(100, has_events=False, has_endpoints=False) for _ in range(8)]
    assert pauses[0] == APART_S
    assert pauses[-1] == APART_MAX_S
    assert pauses == sorted(pauses)


def test_a_callback_or_an_endpoint_brings_the_reads_together_again() -> None:
    for has_events, has_endpoints in ((True, False), (False, True)):
        pace = ReadPace()
        for _ in range(8):
            pace.after(100, has_events=False, has_endpoints=False)
        pace.after(100, has_events=has_events, has_endpoints=has_endpoints)
        assert pace.after(100, has_events=False, has_endpoints=has_endpoints) == APART_S
    # An endpoint keeps them together, whether it is told or not.
    assert {pace.after(100, has_events=False, has_endpoints=True) for _ in range(8)} == {APART_S}


def test_after_a_rest_the_first_row_is_not_waited_for_longer_than_usual() -> None:
    pace = ReadPace()
    for _ in range(8):
        pace.after(100, has_events=False, has_endpoints=False)
    pace.after(0, has_events=False, has_endpoints=False)
    assert pace.after(1, has_events=False, has_endpoints=False) == APART_S


def test_whoever_is_told_does_not_wait_and_neither_does_a_backlog() -> None:
    pace = ReadPace()
    assert pace.after(10, has_events=True, has_endpoints=True) == 0
    assert pace.after(ROWS, has_events=False, has_endpoints=True) == 0
    # Where nobody is told, more than that is no backlog yet.
    quiet = ReadPace()
    quiet.after(10, has_events=False, has_endpoints=False)
    assert quiet.after(ROWS, has_events=False, has_endpoints=False) > 0
    assert quiet.after(UNTOLD_ROWS, has_events=False, has_endpoints=False) == 0


def test_as_many_entries_are_asked_for_as_bring_about_enough_rows() -> None:
    pace = ReadPace()
    for _ in range(12):
        pace.after(pace.entries * 40, has_events=True, has_endpoints=True)
    assert ROWS // 2 <= pace.entries * 40 <= ROWS
    for _ in range(12):
        pace.after(pace.entries * 10_000, has_events=True, has_endpoints=True)
    assert pace.entries == 1
    for _ in range(12):
        pace.after(pace.entries, has_events=True, has_endpoints=True)
    assert pace.entries == ENTRIES_MAX
