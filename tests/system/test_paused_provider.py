"""The only provider is paused and resumed while a backlog is sent: its order is kept, and its end is told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.system.client import Caller, eventually
from tests.system.conftest import ROOT, Engine, answer, start_engine

# Segments a second, and messages.
RATE, MANY = 100, 1500
CONFIG = """
[[providers]]
name = "only"
type = "smpp"
host = "127.0.0.1"
port = {port}
system_id = "engine"
password = "secret"
throughput = {rate}
"""


class Smsc:
    """An SMSC that notes which messages it was given, in order."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "benchmarks.timed_smsc", ""]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.port = int(self._line())

    def numbers(self) -> list[str]:
        """The numbers that messages were sent to, in order."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return list(json.loads(self._line()))

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Engine, Smsc]]:
    with ExitStack() as stack:
        smsc = Smsc()
        stack.callback(smsc.stop)
        config = tmp_path / "engine.toml"
        config.write_text(CONFIG.format(port=smsc.port, rate=RATE))
        engine = start_engine(tmp_path / "data", ("--demo", "--config", config))
        stack.callback(engine.kill)
        stack.callback(engine.stop)
        yield engine, smsc


def test_a_backlog_keeps_its_order_and_tells_its_end_while_the_only_provider_is_paused_and_resumed(
    world: tuple[Engine, Smsc],
) -> None:
    engine, smsc = world

    def told() -> dict[str, Any]:
        row: dict[str, Any] = answer(engine.run("queue", "show", "normal", "--json"))["organisations"][0]
        return row

    def right() -> None:
        """What is told is null for a second or two, and then about right."""
        began_s = time.monotonic()
        row = eventually(lambda: (row := told())["ends_in_ms"] and row, 5.0)
        assert time.monotonic() - began_s < 4.0
        assert row["ends_in_ms"] / 1000 == pytest.approx(row["messages"] / RATE, rel=0.35)

    answer(engine.run("queue", "scale", "normal", "1", "--json"))
    answer(engine.run("provider", "pause", "only", "--json"))
    _send(engine)
    time.sleep(3.0)
    assert told()["ends_in_ms"] is None
    for _ in range(5):
        answer(engine.run("provider", "resume", "only", "--json"))
        sent = len(smsc.numbers())
        eventually(lambda before=sent: len(smsc.numbers()) > before)
        right()
        answer(engine.run("provider", "pause", "only", "--json"))
        time.sleep(2.5)
        assert told()["ends_in_ms"] is None
    answer(engine.run("provider", "resume", "only", "--json"))
    eventually(lambda: len(smsc.numbers()) == MANY)
    found = smsc.numbers()
    assert [b for a, b in pairwise(found) if b < a] == []


def _send(engine: Engine) -> None:
    """Messages of one organisation, to numbers that go up."""
    made = answer(engine.run("org", "create", "Acme", "--json"))
    answer(engine.run("org", "topup", made["id"], MANY, "--reference", "first", "--json"))
    caller = Caller(engine.url, made["api_key"])
    for first in range(0, MANY, 500):
        batch = [{"to": f"+98912{n:07}", "text": "hello"} for n in range(first, first + 500)]
        assert caller.call("POST", "/v1/messages/batch", {"messages": batch})[0] == 202
