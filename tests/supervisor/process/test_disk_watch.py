"""What an operator is told while the disk of the data directory fills up, and afterwards."""

from __future__ import annotations

from pathlib import Path

import structlog

from engine.disk_space import DiskSpace, scarcest
from supervisor.process.disk_watch import DiskWatch


def room(free_mb: int) -> DiskSpace:
    return DiskSpace(place="/data", free_mb=free_mb, total_mb=9000, low_below_mb=400)


def test_it_is_said_once_before_it_is_full_once_when_it_is_and_once_afterwards() -> None:
    rooms = (400, 399, 401, 399, 20, 19, 0, 19, 30, 499, 500, 400)
    with structlog.testing.capture_logs() as logs:
        watch = DiskWatch("/data", structlog.get_logger())
        told = [watch.judge(room(free_mb), 0.0, float(now)) for now, free_mb in enumerate(rooms)]
    low = "The disk of the data directory /data has {} MB free, of 9000 MB; make room."
    full = "The disk of the data directory /data has less than 20 MB free; make room."
    assert told == [
        "", *(low.format(mb) for mb in (399, 401, 399, 20)), full, full, full,
        low.format(30), low.format(499), "", "",
    ]  # fmt: skip
    assert [(line["event"], line["log_level"], line["why"]) for line in logs] == [
        ("disk_low", "warning", low.format(399)),
        ("disk_full", "error", full),
        (
            "disk_was_full",
            "warning",
            "The disk of the data directory /data had less than 20 MB free for 3 s.",
        ),
    ]


def test_a_disk_that_hangs_is_told_once_and_once_when_it_answers_again() -> None:
    with structlog.testing.capture_logs() as logs:
        watch = DiskWatch("/data", structlog.get_logger())
        told = [watch.judge(room(5000), silent_s, 100 + silent_s) for silent_s in (0.0, 9.9, 10.0, 25.0, 0.0)]
    assert [bool(sentence) for sentence in told] == [False, False, True, True, False]
    assert told[2] == told[3]
    assert told[2].startswith("The disk of the data directory /data does not answer; ")
    assert [line["event"] for line in logs] == ["disk_hangs", "disk_answers_again"]


def test_the_room_is_that_of_the_disk_and_nobody_is_told_of_no_directory(tmp_path: Path) -> None:
    found = scarcest(str(tmp_path))
    assert found is not None
    assert 0 < found.free_mb <= found.total_mb
    assert 200 <= found.low_below_mb <= 512
    assert scarcest("") is None
    assert scarcest(str(tmp_path / "nothing")) is None
