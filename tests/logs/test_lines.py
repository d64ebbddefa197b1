"""A log that nobody reads, or whose disk is full, holds up nothing; what is lost is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.logs import lines as log_lines
from engine.logs.lines import Lines


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """stderr is a pipe; the end from which it is read."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(log_lines, "sys", SimpleNamespace(stderr=stream))
        os.set_blocking(reader, False)
        yield reader
    os.close(reader)


def test_lines_that_nobody_reads_are_lost_and_counted_and_nothing_waits(pipe: int) -> None:
    lines, line = Lines(), "x" * 999
    for _ in range(1000):
        lines.warning(line)
    read = os.read(pipe, 1 << 20)
    assert 0 < len(read) < 1_000_000
    lost = lines.taken_lost()
    assert lost == 1000 - read.count(b"\n")
    lines.info("after")
    last = os.read(pipe, 1 << 20)
    assert last.endswith(b"after\n")
    assert lines.taken_lost() == 0


def test_what_follows_half_a_line_is_on_a_line_of_its_own(pipe: int) -> None:
    lines = Lines()
    lines.error("y" * 200_000)
    torn = os.read(pipe, 1 << 20)
    assert not torn.endswith(b"\n")
    lines.info("after")
    assert os.read(pipe, 1 << 20) == b"\nafter\n"
    assert lines.taken_lost() == 1


def test_a_reader_that_has_gone_is_no_error(pipe: int) -> None:
    lines = Lines()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, pipe)
    os.close(nothing)
    lines.info("to nobody")
    assert lines.taken_lost() == 1


def test_a_full_disk_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines()
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(log_lines, "sys", SimpleNamespace(stderr=full))
        lines.info("no room")
    assert lines.taken_lost() == 1
