"""While the embedded Redis writes its file anew, nobody else waits for it, and nothing is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import structlog

from engine.hosts.cpu_turns import LATER_NICE
from supervisor.embedded.rewrites import CUT_BYTES, LOOK_S, Rewrites
from supervisor.embedded.servers import Server, start_redis
from supervisor.process.disk_child import DiskChild

# So many keys of 1 MiB: some pieces of a file.
_KEYS = 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    tmp_path.chmod(0o755)
    server = start_redis(tmp_path)
    yield server
    server.stop(10)


def _client(server: Server) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def _fill(client: redis.Redis) -> None:
    for n in range(_KEYS):
        client.set(f"k{n}", os.urandom(1 << 20))


def _rewritten(client: redis.Redis) -> None:
    client.bgrewriteaof()
    _until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    # The old files are removed by a thread.
    time.sleep(0.2)


def _until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def _sizes(folder: Path) -> dict[str, int]:
    """Of the files that have no other name."""
    found = folder.iterdir() if folder.is_dir() else ()
    return {file.name: file.stat().st_size for file in found if file.stat().st_nlink == 1}


def _run(rewrites: Rewrites, folder: Path) -> list[int]:
    """Turns until nothing is left to be cut; how much each has taken away."""
    taken, before = [], sum(_sizes(folder).values())
    while _sizes(folder):
        rewrites.turn()
        left = sum(_sizes(folder).values())
        taken.append(before - left)
        before = left
    return taken


def test_a_replaced_file_goes_a_piece_at_a_time_and_all_data_stay(server: Server, tmp_path: Path) -> None:
    client, folder = _client(server), tmp_path / "redis" / "replaced"
    _fill(client)
    rewrites = Rewrites(tmp_path)
    rewrites.turn()
    assert list(folder.iterdir())
    assert not _sizes(folder)
    _rewritten(client)
    assert sum(_sizes(folder).values()) > _KEYS << 20
    # Killed after two pieces: another goes on.
    rewrites.turn()
    rewrites.turn()
    taken = _run(Rewrites(tmp_path), folder)
    assert len(taken) >= (_KEYS << 20) // CUT_BYTES - 2
    assert max(taken) <= CUT_BYTES
    client.set("last", "x")
    server.stop(20)
    again = start_redis(tmp_path)
    try:
        assert _client(again).dbsize() == _KEYS + 1
    finally:
        again.stop(10)


def test_files_that_redis_has_are_never_cut(server: Server, tmp_path: Path) -> None:
    client, rewrites = _client(server), Rewrites(tmp_path)
    _fill(client)
    files = tmp_path / "redis" / "appendonlydir"
    before = {file.name: file.stat().st_size for file in files.iterdir()}
    for _ in range(20):
        assert rewrites.turn() == LOOK_S
    assert {file.name: file.stat().st_size for file in files.iterdir()} == before
    assert not _sizes(tmp_path / "redis" / "replaced")


def test_what_redis_has_by_that_name_is_not_cut_even_if_the_file_system_counts_no_names(
    tmp_path: Path,
) -> None:
    files, folder = tmp_path / "redis" / "appendonlydir", tmp_path / "redis" / "replaced"
    files.mkdir(parents=True)
    folder.mkdir()
    live = files / "appendonly.aof.1.incr.aof"
    live.write_bytes(b"x")
    # As on such a file system: a second name, and a count of 1.
    second = folder / "5-appendonly.aof.1.incr.aof"
    second.write_bytes(b"x")
    rewrites = Rewrites(tmp_path)
    rewrites.turn()
    assert second.exists()
    live.unlink()
    # It has given the file that was there another name, too.
    rewrites.turn()
    rewrites.turn()
    assert not list(folder.iterdir())


def test_no_link_is_followed_to_what_is_not_of_redis(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "1-precious").write_bytes(b"x")
    redis_folder = tmp_path / "redis"
    (redis_folder / "appendonlydir").mkdir(parents=True)
    (redis_folder / "replaced").symlink_to(others)
    Rewrites(tmp_path).turn()
    (redis_folder / "replaced").unlink()
    (redis_folder / "replaced").mkdir()
    (redis_folder / "replaced" / "1-link").symlink_to(others / "1-precious")
    (redis_folder / "replaced" / "2-folder").mkdir()
    Rewrites(tmp_path).turn()
    assert (others / "1-precious").read_bytes() == b"x"
    assert (redis_folder / "replaced" / "2-folder").is_dir()


def test_the_child_that_writes_the_file_gives_way_and_redis_does_not(server: Server, tmp_path: Path) -> None:
    client = _client(server)
    _fill(client)
    # Microseconds a key, so that the child lives long enough to be seen.
    client.config_set("rdb-key-save-delay", 50_000)
    client.bgrewriteaof()
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    _until(lambda: children.read_text())
    child, own = int(children.read_text()), os.getpriority(os.PRIO_PROCESS, server.pid)
    rewrites = Rewrites(tmp_path)
    for _ in range(3):
        rewrites.turn()
        assert os.getpriority(os.PRIO_PROCESS, child) == min(
            19, os.getpriority(os.PRIO_PROCESS, 0) + LATER_NICE
        )
    assert os.getpriority(os.PRIO_PROCESS, server.pid) == own


def test_children_of_a_process_that_has_the_number_of_a_dead_redis_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "redis.pid").write_text(f"{os.getpid()}\n")
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        Rewrites(tmp_path).turn()
        assert os.getpriority(os.PRIO_PROCESS, child) == os.getpriority(os.PRIO_PROCESS, 0)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_without_an_embedded_redis_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert Rewrites(tmp_path).turn() == LOOK_S
    assert not list(tmp_path.iterdir())


def test_the_child_of_the_supervisor_does_it_between_orders(server: Server, tmp_path: Path) -> None:
    client, folder = _client(server), tmp_path / "redis" / "replaced"
    _fill(client)
    disk = DiskChild(lambda: None, structlog.get_logger())
    try:
        disk.look(str(tmp_path))
        disk.write(tmp_path / "x", b"first")
        _until(lambda: folder.is_dir() and list(folder.iterdir()))
        _rewritten(client)
        disk.write(tmp_path / "x", b"last")
        assert (tmp_path / "x").read_bytes() == b"last"
        _until(lambda: not _sizes(folder))
    finally:
        disk.close()
