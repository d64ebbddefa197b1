"""Whoever reads a disk that hangs goes on with what it knows."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from engine.hosts import disk_calls
from engine.hosts.disk_calls import DiskRead, within
from tests.disk import hung_disk


async def test_while_the_disk_hangs_the_last_answer_counts_and_then_the_present_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_calls, "ANSWER_S", 0.2)
    file = tmp_path / "disk" / "file"
    file.parent.mkdir()
    file.write_text("1")

    def text() -> str:
        try:
            return file.read_text()
        except OSError:
            return "failed"

    read = DiskRead(text, "nothing")
    assert (await read.latest(), read.hangs) == ("1", False)
    file.write_text("2")
    with hung_disk(file.parent):
        began = time.monotonic()
        assert [await read.latest() for _ in range(100)] == ["1"] * 100
        assert read.hangs
        assert time.monotonic() - began < 2.0
    async with asyncio.timeout(30):
        while await read.latest() != "2":  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)
    assert not read.hangs


def test_a_call_that_takes_too_long_is_an_error_as_one_that_fails(tmp_path: Path) -> None:
    assert within(10, lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        within(10, (tmp_path / "nothing").read_text)
    (tmp_path / "disk").mkdir()
    with hung_disk(tmp_path / "disk"), pytest.raises(TimeoutError):
        within(0.2, (tmp_path / "disk" / "file").read_text)
