"""The whole engine as a user starts it: `smsengine up --demo` on free ports, once per session."""

from __future__ import annotations

import asyncio
import atexit
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from engine.stores.migrate import migrate_clickhouse, migrate_postgres
from supervisor import cli
from supervisor.datadir import FORMAT
from supervisor.embedded.servers import start_all
from tests import warm

COMMAND = [sys.executable, "-m", "supervisor.cli"]
ROOT = Path(__file__).parents[2]
# A first start makes three databases; other tests may share the machine, seconds.
READY_S = 90.0
STOP_S = 60.0


def environment() -> dict[str, str]:
    """Ours without what would lead a command to another engine."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SMSENGINE_")} | {"COLUMNS": "120"}


def smsengine(*arguments: object, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return warm.run(
        [*COMMAND, *arguments],
        capture_output=True, text=True, timeout=timeout_s, env=environment(), cwd=ROOT, check=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running engine, as its JSON line describes it."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path
    url: str
    api_key: str
    admin_key: str
    admin_url: str
    organisation: int
    simulator_url: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """A command to this engine, carried out in this process: a process of its own costs half a second.

        `smsengine` starts one. What is printed is this process's to keep, so no other thread may call it.
        """
        line = [*map(str, arguments), "--data-dir", str(self.data_dir)]
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with (
            patch.dict(os.environ, environment(), clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = cli.run(line)
        told = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return subprocess.CompletedProcess(line, code, *told)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_S)


@cache
def cluster() -> Path:
    """A data directory with the tables in PostgreSQL and ClickHouse, which take long to make, and no row."""
    folder = Path(tempfile.mkdtemp(prefix="smsengine-cluster-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o711)
    servers = start_all(folder / "data", {"postgres", "clickhouse"})
    with ThreadPoolExecutor() as pool:
        # The test that needs it may run in a loop, and a thread has none.
        pool.submit(asyncio.run, migrate_postgres(servers["postgres"].url)).result()
        pool.submit(asyncio.run, migrate_clickhouse(servers["clickhouse"].url)).result()
    for server in servers.values():
        server.stop(STOP_S)
    (folder / "data" / "format").write_text(f"{FORMAT}\n")
    shutil.rmtree(folder / "data" / "logs")
    shutil.rmtree(folder / "data" / "run")
    return folder / "data"


def start_engine(
    data_dir: Path,
    arguments: Sequence[object] = ("--demo",),
    *,
    listen: Sequence[str] = ("--listen", "127.0.0.1:0"),
    before: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    variables: Mapping[str, str] | None = None,
    fresh: bool = False,
) -> Engine:
    """Wait for the JSON line. AssertionError with the log when none comes.

    A data directory that is not there is a copy of `cluster`; `fresh`: the engine makes it itself.
    `before` is a program with arguments that executes the rest; `variables` are added to the environment.
    """
    if not fresh and not data_dir.exists():
        subprocess.run(["cp", "-a", cluster(), data_dir], check=True)
    log = data_dir.with_name(f"{data_dir.name}.log")
    argv = [*before, *COMMAND, "up", *map(str, arguments), "--data-dir", str(data_dir), *listen, "--json"]
    with log.open("ab") as stderr:
        # As a user starts it, or at once where the start is not what is tried.
        process = (subprocess if fresh or before else warm).Popen(
            argv, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT, start_new_session=True,
            env=environment() | dict(variables or {}), pass_fds=pass_fds,
        )  # fmt: skip
    try:
        facts = json.loads(first_line(process, READY_S) or "null")
    except BaseException:
        process.kill()
        raise
    if facts is None:
        process.kill()
        raise AssertionError(f"The engine did not start; its log ends:\n{log.read_text()[-3000:]}")
    return Engine(process=process, data_dir=data_dir, log=log, **facts)


def first_line(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """What it prints first; b"" when it ends or is silent instead."""
    assert process.stdout is not None
    deadline, line = time.monotonic() + timeout_s, b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            return b""
        piece = os.read(process.stdout.fileno(), 65536)
        if not piece:
            return b""
        line += piece
    return line


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with a demo organisation, a simulated provider and a data directory of its own."""
    folder = tmp_path_factory.mktemp("engine")
    config = folder / "engine.toml"
    # A node that is drained takes messages for longer than a slow machine needs to end its workers.
    config.write_text("[http]\ndrain_notice_s = 600\n")
    engine = start_engine(folder / "data", ("--demo", "--config", config))
    yield engine
    code = engine.stop()
    assert code == 0, f"The engine ended with {code}; its log ends:\n{engine.log.read_text()[-3000:]}"


def answer(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    """The JSON a command printed."""
    assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout)
