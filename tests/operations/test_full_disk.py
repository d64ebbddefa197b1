"""The disk of the data directory, with all stores and the log on it, is full for a while, and then is not."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import ROLES
from tests.disk import Disk, small_disk
from tests.operations.customers import IN_FLIGHT, assert_none_lost, customers
from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, start_engine
from tests.system.faults import fetch_processes

SIZE_MB = 260
FULL_S = 30.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    with small_disk(place, SIZE_MB) as disk:
        yield disk


@pytest.fixture
def victim(disk: Disk) -> Iterator[Engine]:
    engine = start_engine(disk.place / "data")
    yield engine
    disk.make_room()
    engine.stop()
    engine.kill()


def tells(engine: Engine) -> bool:
    """Whether `smsengine status` says that the disk is nearly full."""
    return "MB free, of 260 MB: make room" in " ".join(engine.run("status").stdout.split())


def test_a_full_disk_loses_nothing_and_the_engine_goes_on_when_there_is_room(
    victim: Engine, disk: Disk
) -> None:
    disk.fill_up_to(100)
    eventually(lambda: tells(victim))
    with customers(victim, patience_s=180.0) as running:
        disk.fill()
        # An answer that is on its way may be uncertain, and says so.
        eventually(lambda: running.refusals["503"] >= 20, 60)
        until = time.monotonic() + FULL_S
        while time.monotonic() < until:
            disk.fill()
            time.sleep(1)
            assert victim.process.poll() is None, "the engine ended"
        status, parts = Caller(victim.url, "").call("GET", "/readyz")
        assert status == 503, parts
        accepted = len(running.accepted)
        disk.make_room()
        running.go_on(60, timeout_s=30)
    assert set(running.refusals) == {"503"}
    print(f"{accepted} accepted before, then {dict(running.sentences)}")  # noqa: T201 - what a run saw
    eventually(lambda: {r["state"] for r in fetch_processes(victim)} == {"ready"}, 60)
    assert len(fetch_processes(victim)) == len(ROLES)
    assert_none_lost(victim, running.stop(), duplicates_max=2 * IN_FLIGHT)
    log = victim.log.read_text()
    assert "log_lines_lost" in log
    # What is said while it is full is lost when the log is on it; before and afterwards it is not.
    assert "disk_low" in log
    assert re.search(r"disk_was_full .*had less than 20 MB free for [0-9]+ s", log)
    assert victim.stop() == 0
