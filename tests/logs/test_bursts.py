"""Lines of one kind that come again and again are counted instead of written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from engine.logs.bursts import LINES, WINDOW_S, WINDOW_S_MAX, Bursts

AWAY = ("warning", "store away")


def lines_of(bursts: Bursts, seconds: int, rate: int, begin: int = 0) -> int:
    """How many lines are written when `rate` come each second, with those that count the rest."""
    written = 0
    for now in range(begin, begin + seconds):
        written += len(bursts.ended(now))
        written += sum(bursts.admit(AWAY, now) for _ in range(rate))
    return written


def test_what_comes_now_and_then_is_written() -> None:
    assert lines_of(Bursts(), 3600, 1) > 3600 * 0.99 or LINES < WINDOW_S
    bursts = Bursts()
    assert all(bursts.admit(AWAY, now) for now in range(0, 1000, 5) if bursts.ended(now) == [])


def test_the_rest_of_a_burst_is_counted_exactly() -> None:
    bursts = Bursts()
    admitted = sum(bursts.admit(AWAY, 0.0) for _ in range(1000))
    assert admitted == LINES
    assert bursts.ended(WINDOW_S - 0.1) == []
    assert bursts.ended(WINDOW_S) == [(AWAY, 1000 - LINES, WINDOW_S)]
    assert bursts.ended(WINDOW_S * 10) == [], "it is said once"


def test_a_fault_of_a_day_writes_some_thousand_lines() -> None:
    assert lines_of(Bursts(), 86400, 20) < 86400 / WINDOW_S_MAX * (LINES + 1) * 1.2


def test_after_a_quiet_window_the_first_length_counts_again() -> None:
    bursts = Bursts()
    lines_of(bursts, 5000, 100)
    later = 5000 + 2 * WINDOW_S_MAX
    assert bursts.ended(later, all_of_them=True)
    assert bursts.ended(later + WINDOW_S_MAX) == []
    assert lines_of(bursts, 1, 100, int(later + WINDOW_S_MAX)) == LINES
    assert bursts.ended(later + WINDOW_S_MAX + WINDOW_S)[0].seconds == WINDOW_S


def test_kinds_do_not_hide_one_another_and_are_bounded() -> None:
    bursts = Bursts()
    for _ in range(LINES + 1):
        bursts.admit(AWAY, 0.0)
    assert bursts.admit(("error", "store away"), 0.0)
    assert not all(bursts.admit(("info", f"event {n}"), 0.0) for n in range(5000))


PROGRAM = """
import logging, sys, structlog
from engine.logs.telemetry import configure_logs
configure_logs(as_json=False)
log = structlog.get_logger()
log.warning("first\\nevent", why="two\\nlines")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("second")
logging.getLogger("asyncio").error("third %s", "+989121234567")
"""


def written(tmp_path: Path, journal: bool) -> list[str]:
    """What the program writes to a file, which is the journal's or is not."""
    with (tmp_path / "stderr").open("w+b") as stderr:
        status = os.fstat(stderr.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"} if journal else {}
        command = [sys.executable, "-c", PROGRAM]
        subprocess.run(
            command, stderr=stderr, env=os.environ | environment, check=True, cwd=Path(__file__).parents[2]
        )
        stderr.seek(0)
        return stderr.read().decode().splitlines()


def test_each_event_is_one_line_with_its_priority_in_the_journal(tmp_path: Path) -> None:
    first, second, third = written(tmp_path, journal=True)
    assert first == '<4>warning first\\nevent why="two\\nlines"'
    assert second.startswith('<3>error   second exception="Traceback')
    assert third == '<3>error   library library=asyncio message="third +***"'


def test_elsewhere_it_has_the_time_and_no_priority(tmp_path: Path) -> None:
    first, second, _ = written(tmp_path, journal=False)
    assert first.partition(" ")[2] == 'warning first\\nevent why="two\\nlines"'
    assert first.startswith("20")
    assert "ZeroDivisionError" in second
