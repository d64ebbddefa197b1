"""The disk of one store alone is full for a while: the others, and the log, have room."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.config import ROLES
from tests.disk import Disk, small_disk
from tests.operations.customers import IN_FLIGHT, assert_none_lost, customers
from tests.system.client import eventually
from tests.system.conftest import Engine, cluster, start_engine
from tests.system.faults import fetch_processes

FULL_S = 30.0
# Enough for the store to start and to work a while, MB.
SIZES_MB = {"postgres": 200, "redis": 130, "clickhouse": 140}


@contextmanager
def with_small_disk(folder: Path, store: str) -> Iterator[tuple[Engine, Disk]]:
    """An engine whose store keeps its data on a small disk."""
    data_dir = folder / "data"
    subprocess.run(["cp", "-a", cluster(), data_dir], check=True)
    place = data_dir / store
    kept = data_dir / f"{store}.before"
    if place.exists():
        place.rename(kept)
    place.mkdir()
    with small_disk(place, SIZES_MB[store]) as disk:
        if kept.exists():
            subprocess.run(["cp", "-a", f"{kept}/.", place], check=True)
        engine = start_engine(data_dir)
        try:
            yield engine, disk
        finally:
            disk.make_room()
            engine.stop()
            engine.kill()


@pytest.mark.parametrize("store", sorted(SIZES_MB))
def test_a_full_disk_of_one_store_loses_nothing_and_ends_with_the_disk(tmp_path: Path, store: str) -> None:
    with with_small_disk(tmp_path, store) as (engine, disk), customers(engine, patience_s=180.0) as running:
        running.go_on(30)
        until = time.monotonic() + FULL_S
        while time.monotonic() < until:
            disk.fill()
            time.sleep(1)
            assert engine.process.poll() is None, "the engine ended"
        accepted = len(running.accepted)
        disk.make_room()
        running.go_on(60, timeout_s=60)
        assert set(running.refusals) <= {"503"}
        print(f"{store}: {accepted} accepted until then, refused {dict(running.sentences)}")  # noqa: T201 - what a run saw
        if store == "clickhouse":
            assert not running.refusals, "Nobody waits for the activity."
        eventually(lambda: {r["state"] for r in fetch_processes(engine)} == {"ready"}, 60)
        assert len(fetch_processes(engine)) == len(ROLES)
        assert_none_lost(engine, running.stop(), duplicates_max=2 * IN_FLIGHT)
        assert engine.stop() == 0
