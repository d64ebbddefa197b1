"""What processes have counted outlives them, counts once, and needs a bounded number of files."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.boot import metric_files
from engine.boot.metric_files import CountsFile, add_up, read_all
from engine.metrics.snapshot import Counts, Snapshot, added

SENT = "smsengine_messages_sent"

# A process that has counted so many messages, says so and waits to be killed.
CHILD = """
import sys
from pathlib import Path
from engine.boot.metric_files import CountsFile
from tests.boot.test_metric_files import counted
file = CountsFile(Path(sys.argv[1]), sys.argv[2])
for number in range(1, int(sys.argv[3]) + 1):
    file.write(counted(number))
print("written", flush=True)
sys.stdin.read()
"""


def counted(sent: int, padding: int = 0) -> Snapshot:
    numbers = {"normal": float(sent)} | {f"{at:0100}": 0.0 for at in range(padding)}
    return Snapshot(role="normal", counts=Counts(counters={SENT: numbers}), gauges={"g": {"": 1.0}})


def sent_of(directory: Path) -> float:
    found = read_all(directory)
    total = added([found.totals.counts, *(s.counts for s in found.snapshots.values())])
    return total.counters.get(SENT, {}).get("normal", 0.0)


@contextmanager
def process(directory: Path, name: str, sent: int) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory), name, str(sent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"written\n"
        yield child
    finally:
        child.kill()
        child.wait(60)
        child.stdin.close()
        child.stdout.close()


def test_what_a_killed_process_counted_stays(tmp_path: Path) -> None:
    with process(tmp_path, "node.normal.a", 7) as child:
        assert (sent_of(tmp_path), len(read_all(tmp_path).living)) == (7, 1)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        assert (sent_of(tmp_path), len(read_all(tmp_path).living)) == (7, 0)
        add_up(tmp_path)
        assert sent_of(tmp_path) == 7
        add_up(tmp_path)
        assert sent_of(tmp_path) == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adding", "totals"]


def test_the_living_are_not_added_up(tmp_path: Path) -> None:
    with process(tmp_path, "living", 3), process(tmp_path, "frozen", 4) as frozen:
        frozen.send_signal(signal.SIGSTOP)
        add_up(tmp_path)
        assert len(read_all(tmp_path).living) == 2
        assert sent_of(tmp_path) == 7


@pytest.mark.parametrize("step", ["before the totals", "before the files are deleted"])
def test_adding_up_that_is_killed_neither_loses_nor_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(Exception):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    for name, sent in (("a", 1), ("b", 2)):
        file = CountsFile(tmp_path, name)
        file.write(counted(sent))
        file.close()
    with monkeypatch.context() as patch:
        if step == "before the totals":
            patch.setattr(metric_files, "_replace", kill)
        else:
            patch.setattr(Path, "unlink", kill)
        with pytest.raises(Killed):
            add_up(tmp_path)
    assert sent_of(tmp_path) == 3
    file = CountsFile(tmp_path, "c")
    file.write(counted(4))
    file.close()
    assert sent_of(tmp_path) == 7
    add_up(tmp_path)
    assert sent_of(tmp_path) == 7
    add_up(tmp_path)
    assert sent_of(tmp_path) == 7
    assert not list(tmp_path.glob("*.counts"))


def test_a_scrape_while_files_are_added_up_reads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = CountsFile(tmp_path, "a")
    file.write(counted(5))
    file.close()
    read_totals = metric_files._read_totals
    calls = 0

    def then_add_up(directory: Path) -> metric_files.Totals:
        nonlocal calls
        found = read_totals(directory)
        calls += 1
        if calls == 1:
            # The reader has the old totals, and the file goes away.
            add_up(directory)
        return found

    monkeypatch.setattr(metric_files, "_read_totals", then_add_up)
    assert sent_of(tmp_path) == 5


def test_only_one_adds_up(tmp_path: Path) -> None:
    file = CountsFile(tmp_path, "a")
    file.write(counted(5))
    file.close()
    other = os.open(tmp_path / "adding", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    add_up(tmp_path)
    assert len(list(tmp_path.glob("*.counts"))) == 1
    os.close(other)
    add_up(tmp_path)
    assert not list(tmp_path.glob("*.counts"))
    assert sent_of(tmp_path) == 5


def test_half_a_snapshot_leaves_the_one_before(tmp_path: Path) -> None:
    file = CountsFile(tmp_path, "a")
    file.write(counted(5))
    file.write(counted(6))
    path = tmp_path / file.name
    octets = bytearray(path.read_bytes())
    # The first half has the second snapshot; killed in the middle of it, its end is not there.
    at = octets.index(b"normal")
    octets[at : at + 6] = b"\0" * 6
    path.write_bytes(octets)
    assert sent_of(tmp_path) == 5
    file.write(counted(7))
    file.write(counted(8))
    assert sent_of(tmp_path) == 8
    file.close()


def test_a_snapshot_that_outgrows_its_file_gets_a_larger_one(tmp_path: Path) -> None:
    file = CountsFile(tmp_path, "a")
    file.write(counted(1))
    for sent in range(2, 6):
        file.write(counted(sent, padding=1000 * sent))
        assert sent_of(tmp_path) == sent
        assert read_all(tmp_path).living == {file.name}
        add_up(tmp_path)
        assert read_all(tmp_path).living == {file.name}
    file.close()
    add_up(tmp_path)
    assert sent_of(tmp_path) == 5


def test_files_that_nobody_can_read_are_passed_over_and_go(tmp_path: Path) -> None:
    (tmp_path / "junk.counts").write_bytes(b"junk")
    (tmp_path / "empty.counts").write_bytes(b"")
    (tmp_path / "totals").write_bytes(b"junk")
    file = CountsFile(tmp_path, "a")
    file.write(counted(5))
    file.close()
    assert sent_of(tmp_path) == 5
    add_up(tmp_path)
    assert sent_of(tmp_path) == 5
    assert not list(tmp_path.glob("*.counts"))
