"""What an operator is told while the disk of the data directory fills up, and afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from engine.disk_space import DiskSpace, scarcest
from supervisor.process import disk_watch


def test_it_is_said_once_before_it_is_full_once_when_it_is_and_once_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms = iter((400, 399, 401, 399, 20, 19, 0, 19, 30, 499, 500, 400))
    monkeypatch.setattr(
        disk_watch,
        "scarcest",
        lambda place: DiskSpace(place=place, free_mb=next(rooms), total_mb=9000, low_below_mb=400),
    )
    with structlog.testing.capture_logs() as logs:
        watch = disk_watch.DiskWatch("/data", structlog.get_logger())
        told = [watch.look(float(now)) for now in range(12)]
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


def test_the_room_is_that_of_the_disk_and_nobody_is_told_of_no_directory(tmp_path: Path) -> None:
    found = scarcest(str(tmp_path))
    assert found is not None
    assert 0 < found.free_mb <= found.total_mb
    assert 200 <= found.low_below_mb <= 512
    assert scarcest("") is None
    assert scarcest(str(tmp_path / "nothing")) is None
