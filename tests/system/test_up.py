"""`smsengine up`: started again, started twice, stopped, killed."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import urllib.request
from pathlib import Path

import pytest

from supervisor.embedded.servers import start_all
from tests import warm
from tests.system.client import eventually
from tests.system.conftest import COMMAND, ROOT, STOP_S, answer, environment, smsengine, start_engine


def processes_of(data_dir: Path) -> list[str]:
    """Command lines of all processes that have to do with a data directory."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            session = int((proc / "stat").read_text().rpartition(")")[2].split()[3])
        except OSError:
            continue
        if int(proc.name) != os.getpid() and str(data_dir) in command:
            found.append(f"{proc.name} (session {session}): {command}")
    return found


def children_of(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in listed}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and not _is_zombie(pid)}


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_data_outlive_a_stop_and_a_kill(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    first = start_engine(data_dir, fresh=True)
    try:
        sent = answer(first.run("send", "--to", "+989121234567", "--text", "one", "--json"))
        children = children_of(first.pid)
        # Eight roles, three stores, the simulated provider, what touches the disk; nothing else is forked.
        assert len(children) == 13
        assert "Threads:\t1\n" in Path(f"/proc/{first.pid}/status").read_text()
        assert first.stop() == 0
        assert alive(children) == set()
        assert processes_of(data_dir) == []
        assert "Traceback" not in first.log.read_text()
    finally:
        first.kill()

    second = start_engine(data_dir)
    try:
        assert (second.api_key, second.admin_key, second.organisation) == (
            first.api_key,
            first.admin_key,
            first.organisation,
        )
        answer(second.run("send", "--to", "+989121234567", "--text", "two", "--json"))
        listed = second.run("org", "list", "--json").stdout.splitlines()
        assert len(listed) == 1, "the demo organisation is made once"
        children = children_of(second.pid)
        second.kill()
        eventually(lambda: not alive(children) and not processes_of(data_dir), STOP_S)
    finally:
        second.kill()

    third = start_engine(data_dir)
    try:
        posted = eventually(
            lambda: (
                (b := answer(third.run("org", "balance", third.organisation, "--json")))["held"] == 0 and b
            )
        )
        # Topped up once, and both messages charged once.
        assert posted["posted"] == 1_000_000 - 2
        assert answer(third.run("audit", "--json"))["clean"] is True
        shown = answer(smsengine("send", "--to", "+989121234567", "--text", "x", "--url", third.url,
                                 "--api-key", third.api_key, "--json"))  # fmt: skip
        assert shown["id"] != sent["id"]
        assert third.stop() == 0
    finally:
        third.kill()


def test_secrets_are_for_the_owner_alone_and_a_server_that_dies_is_started_again(tmp_path: Path) -> None:
    engine = start_engine(tmp_path / "data")
    try:
        private = [engine.data_dir / "run" / "engine.json", *(engine.data_dir / "secrets").iterdir()]
        assert {stat.S_IMODE(p.stat().st_mode) for p in private} == {0o600}
        assert (engine.data_dir / "secrets" / "admin_key").read_text().strip() == engine.admin_key
        log = engine.log.read_text()
        assert engine.admin_key not in log
        assert engine.api_key not in log
        again = smsengine("up", "--demo", "--data-dir", engine.data_dir, "--listen", "127.0.0.1:0")
        assert again.returncode == 2
        assert again.stderr == (
            f"smsengine: Another smsengine (process {engine.pid}) uses {engine.data_dir}; "
            "stop it or name another directory with --data-dir.\n"
        )
        redis = int((engine.data_dir / "run" / "redis.pid").read_text())
        os.kill(redis, signal.SIGKILL)
        eventually(lambda: engine.run("send", "--to", "+989121234567", "--text", "x").returncode == 0, 60)
        assert int((engine.data_dir / "run" / "redis.pid").read_text()) != redis
        assert engine.stop() == 0
        gone = engine.run("status")
        assert gone.returncode == 2
        assert gone.stderr.startswith("smsengine: No running engine is known in the data directory")
    finally:
        engine.kill()


def test_without_json_it_prints_commands_that_work_when_pasted(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*COMMAND, "up", "--demo", "--data-dir", str(data_dir), "--listen", f"127.0.0.1:{port}",
             "--admin-listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT, env=environment(),
        )  # fmt: skip
    try:
        assert process.stdout is not None
        text = ""
        while "Ctrl-C" not in text:
            line = process.stdout.readline()
            assert line, log.read_text()
            text += line
        commands = [
            line.strip() for line in text.splitlines() if line.startswith("  ") and "API key" not in line
        ]
        places = ("Messages", "Admin calls", "Web console")
        (console,) = (line.split()[-1] for line in commands if line.startswith("Web console"))
        with urllib.request.urlopen(console, timeout=60) as page:
            assert page.headers["Content-Type"].startswith("text/html")
        send, file, watch = (c for c in commands if not c.startswith(places))
        assert '"accepted"' in _pasted(send) or _pasted(send).startswith("accepted")
        assert _pasted(file).startswith("100 accepted, 0 refused")
        assert watch.endswith("--data-dir " + str(data_dir))
        assert "ingest 1" in _pasted(watch.replace("--watch ", ""))
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_S) == 0
    finally:
        process.kill()


def _pasted(command: str) -> str:
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=environment(),
        check=True,
    )
    return done.stdout


def stopped_at(moment: str, data_dir: Path) -> None:
    """Start, and stop at that moment of the start: nothing runs on."""
    process = warm.Popen(
        [*COMMAND, "up", "--demo", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        err = ""
        while moment not in err:
            line = process.stderr.readline()
            assert line, err
            err += line
        process.terminate()
        err += process.communicate(timeout=STOP_S)[1]
        assert "Traceback" not in err
        assert process.returncode == 0
        eventually(lambda: not processes_of(data_dir), STOP_S)
    finally:
        process.kill()


def test_stopped_while_it_starts_it_leaves_nothing_that_hinders_the_next_start(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    for moment in ("starting_servers", "migrating", "fenced", "child_ready"):
        stopped_at(moment, data_dir)
    engine = start_engine(data_dir)
    try:
        assert answer(engine.run("audit", "--json"))["clean"] is True
        assert engine.stop() == 0
    finally:
        engine.kill()


def test_stores_of_the_configuration_are_used_and_left_running(tmp_path: Path) -> None:
    servers = start_all(tmp_path / "theirs", {"postgres", "redis", "clickhouse"})
    try:
        stores = "".join(f'[{name}]\nurl = "{server.url}"\n' for name, server in servers.items())
        config = tmp_path / "smsengine.toml"
        config.write_text(f"shards = 4\n[roles]\nnormal = 2\n{stores}")
        assert smsengine("migrate", "--config", config).returncode == 0
        checked = answer(smsengine("check", "--config", config, "--json"), code=1)
        assert {c["part"]: c["ok"] for c in checked["checks"]} == {
            "postgres": True, "redis": True, "clickhouse": True, "provider": False, "api": False,
        }  # fmt: skip
        engine = start_engine(tmp_path / "ours", ("--demo", "--config", config), fresh=True)
        try:
            assert not (engine.data_dir / "postgres").exists()
            status = answer(engine.run("status", "--json"))
            assert [p["role"] for p in status["processes"]].count("normal") == 2
            answer(engine.run("send", "--file", ROOT / "examples" / "messages.jsonl", "--json"))
            assert answer(engine.run("check", "--json"))["ok"] is True
            assert answer(engine.run("audit", "--json"))["clean"] is True
            assert engine.stop() == 0
        finally:
            engine.kill()
        config.write_text(config.read_text().replace("shards = 4", "shards = 8"))
        for command in (("check",), ("up", "--demo", "--data-dir", engine.data_dir), ("migrate",)):
            refused = smsengine(*command, "--config", config)
            assert refused.returncode == (1 if command == ("check",) else 2)
            assert "`shards` must be 4 or left out, not 8" in refused.stdout + refused.stderr
        assert [server.poll() for server in servers.values()] == [None] * 3
    finally:
        for server in servers.values():
            server.stop(10)


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk here")
    try:
        done = smsengine("up", "--demo", "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("smsengine: The disk of the data directory ")
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", tmp_path], check=True)
