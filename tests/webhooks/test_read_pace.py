"""A notifier reads seldom and much where nobody is told, and soon where somebody is."""

from __future__ import annotations

from engine.webhooks.read_pace import APART_MAX_S, APART_S, ENTRIES_MAX, ROWS, UNTOLD_ROWS, ReadPace


def test_reads_are_far_apart_while_nobody_has_an_endpoint() -> None:
    pace = ReadPace()
    pauses = [pace.after(100, notified=False, endpoints=False) for _ in range(8)]
    assert pauses[0] == APART_S
    assert pauses[-1] == APART_MAX_S
    assert pauses == sorted(pauses)


def test_a_callback_or_an_endpoint_brings_the_reads_together_again() -> None:
    for told, endpoints in ((True, False), (False, True)):
        pace = ReadPace()
        for _ in range(8):
            pace.after(100, notified=False, endpoints=False)
        pace.after(100, notified=told, endpoints=endpoints)
        assert pace.after(100, notified=False, endpoints=endpoints) == APART_S
    # An endpoint keeps them together, whether it is told or not.
    assert {pace.after(100, notified=False, endpoints=True) for _ in range(8)} == {APART_S}


def test_after_a_rest_the_first_row_is_not_waited_for_longer_than_usual() -> None:
    pace = ReadPace()
    for _ in range(8):
        pace.after(100, notified=False, endpoints=False)
    pace.after(0, notified=False, endpoints=False)
    assert pace.after(1, notified=False, endpoints=False) == APART_S


def test_whoever_is_told_does_not_wait_and_neither_does_a_backlog() -> None:
    pace = ReadPace()
    assert pace.after(10, notified=True, endpoints=True) == 0
    assert pace.after(ROWS, notified=False, endpoints=True) == 0
    # Where nobody is told, more than that is no backlog yet.
    quiet = ReadPace()
    quiet.after(10, notified=False, endpoints=False)
    assert quiet.after(ROWS, notified=False, endpoints=False) > 0
    assert quiet.after(UNTOLD_ROWS, notified=False, endpoints=False) == 0


def test_as_many_entries_are_asked_for_as_bring_about_enough_rows() -> None:
    pace = ReadPace()
    for _ in range(12):
        pace.after(pace.entries * 40, notified=True, endpoints=True)
    assert ROWS // 2 <= pace.entries * 40 <= ROWS
    for _ in range(12):
        pace.after(pace.entries * 10_000, notified=True, endpoints=True)
    assert pace.entries == 1
    for _ in range(12):
        pace.after(pace.entries, notified=True, endpoints=True)
    assert pace.entries == ENTRIES_MAX
