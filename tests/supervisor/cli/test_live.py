"""The live view: a picture that always fits, and a terminal that is as before when it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import msgspec
import pytest
from rich.cells import cell_len

from engine.organisations import Drain, Pause
from supervisor.cli import answers
from supervisor.cli.live.frame import frame, rate, short, time_of
from supervisor.cli.live.spark import spark
from tests.supervisor.cli.test_status import answering, running

__all__ = ["answering"]
ROOT = Path(__file__).parents[3]
SIZES = [(80, 24), (140, 50), (60, 12), (200, 100), (20, 5), (1, 1)]


def process(role: str, index: int = 1, **more: object) -> answers.NodeProcess:
    made: dict[str, object] = {"pid": 7, "state": "ready", "cpu_percent": 12.3, "memory_mb": 65, **more}
    return answers.NodeProcess(role=role, index=index, **made)  # type: ignore[arg-type]


def engine(nodes: int = 2, workers: int = 1, providers: int = 1) -> answers.Status:
    processes = [process("ledger"), *(process("express", n + 1) for n in range(workers))]
    queue = answers.QueueState(waiting=1_234_567, in_hand=40, due=3, oldest_ms=61_000)
    rates = answers.QueueRates(
        in_per_s=123.4, out_per_s=0.25, p50_ms=45.0, p99_ms=2100.0, ins=[1.0, 0.0, 123.0], outs=[5.0] * 60
    )
    provider = answers.ProviderRates(sends_per_s=99.0, throughput=100.0, circuits={"open": 1, "closed": 1})
    return answers.Status(
        node="n0",
        processes=[],
        queues={"express": queue, "normal": answers.QueueState()},
        ledger=answers.LedgerState(lag_ms=300),
        activity=answers.ActivityState(waiting_entries=3, oldest_ms=100),
        receipts=answers.ReceiptsState(),
        nodes=[
            answers.Node(
                name=f"n{i}", seen="running", version="1.0", processes=processes, roles={"express": 1}
            )
            for i in range(nodes)
        ],
        flow=answers.Flow(
            queues={"express": rates, "normal": answers.QueueRates()},
            providers={f"p{i}": provider for i in range(providers)},
            credit={"grants": 0.5},
        ),
    )


def picture(seen: answers.Status, width: int = 80, height: int = 24, note: str = "") -> list[str]:
    lines = frame(seen, width=width, height=height, now_us=time.time_ns() // 1000, note=note)
    assert len(lines) == height
    assert all(cell_len(line.plain) <= width for line in lines)
    return [line.plain for line in lines]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_picture_has_the_size_of_the_terminal_whatever_there_is_to_show(width: int, height: int) -> None:
    rng = Random(width)
    for _ in range(30):
        seen = engine(rng.randrange(9), rng.choice([0, 1, 30]), rng.choice([0, 1, 50]))
        picture(seen, width, height, note=rng.choice(["", "9 s old: no answer"]))
    picture(answers.Status(), width, height)


def test_the_picture_shows_rates_times_breakers_and_every_node() -> None:
    shown = "\n".join(picture(engine()))
    for word in ("2 nodes", "q quits", "123", "1.2 M", "45 ms", "2.1 s", "61 s", "▁", "█", "open 1/2",
                 "0.5 grants/s", "books 300 ms", "node n0: running", "node n1: running", "12 %",
                 "65 MB"):  # fmt: skip
        assert word in shown, word


def test_what_does_not_fit_is_counted() -> None:
    shown = "\n".join(picture(engine(nodes=3, workers=40, providers=20)))
    assert "providers more" in shown
    assert "lines more" in shown
    assert shown.count(": running, version 1.0, 41 of 41 ready") == 3, "every node is there"
    assert "processes more" not in shown
    assert "express 40" in "\n".join(picture(engine(workers=40), 140, 70)), "a wide one has two columns"


def test_what_is_not_known_is_named_and_nothing_is_shown_in_its_place() -> None:
    seen = answers.Status(node="n0", missing=dict.fromkeys(("queues", "flow"), "Redis gives no answer."))
    shown = picture(seen, note="12 s old: no answer")
    assert "12 s old: no answer" in shown[0]
    assert "nodes not known" in shown[0]
    assert any("not known: queues, flow: Redis gives no answer." in line for line in shown)
    assert "?" in next(line for line in shown if line.startswith("express"))
    assert not any("0" in line for line in shown if line.startswith(("express", "normal", "credit")))


def test_a_drain_says_what_is_left() -> None:
    since = datetime(2026, 11, 28, 3, 4, tzinfo=UTC)
    seen = answers.Status(
        queues={"normal": answers.QueueState(waiting=5, due=2)},
        drained_queues={"normal": Drain(since=since, reason="new address")},
    )
    shown = " ".join(" ".join(picture(seen)).split())
    sentence = "the queue normal is drained since 2026-11-28 03:04 (new address): 5 waiting, 2 scheduled or"
    assert sentence in shown


def test_on_a_low_terminal_what_is_wrong_is_whole_and_histories_make_room() -> None:
    since = datetime(2026, 11, 28, 3, 4, tzinfo=UTC)
    wrong = {"normal": Pause(since=since, reason="a campaign with a wrong text")}
    seen = msgspec.structs.replace(engine(nodes=1, workers=2, providers=1), paused_queues=wrong)
    shown = picture(seen, 60, 12)
    assert "the queue normal is paused since 2026-11-28 03:04 (a campaign with a wrong text)" in " ".join(
        " ".join(shown).split()
    )
    assert any("ready" in line for line in shown), "the node is there"
    assert not any("▁" in line for line in shown)
    assert any("▁" in line for line in picture(engine(nodes=1, workers=2, providers=1), 60, 12))


def test_numbers_are_short() -> None:
    assert [short(n) for n in (0, 99_999, 100_000, 1_234_567, 2_500_000_000)] == [
        "0", "99,999", "100 k", "1.2 M", "2.5 G",
    ]  # fmt: skip
    assert [rate(n) for n in (0, 0.25, 9.96, 12.4)] == ["0", "0.2", "10.0", "12"]
    assert [time_of(ms) for ms in (0, 45.4, 1500, 61_000)] == ["0", "45 ms", "1.5 s", "61 s"]
    assert spark([0, 1, 8], 5, 8.0) == "   ▂█"


class Terminal:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.resize(24, 80)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.cli", *arguments],
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True,
            env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"},
        )  # fmt: skip
        self.shown = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, holds: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds(self.shown):
            assert time.monotonic() < deadline, self.shown[-2000:]
            if select.select([self.master], [], [], 0.5)[0]:
                self.shown += os.read(self.master, 65536).decode(errors="replace")

    def end(self) -> int:
        self.until(lambda _: self.process.poll() is not None)
        # Python's termios gives the special characters as octets, which compare as they are.
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is as before"
        self.until(lambda shown: "\x1b[?1049l" in shown)
        os.close(self.master)
        os.close(self.slave)
        return self.process.returncode


def test_it_draws_follows_the_size_and_ends_on_a_key(
    tmp_path: Path, answering: Callable[[int, object], str]
) -> None:
    url = answering(
        200, json.loads(json.dumps({"node": "here", "nodes": [{"name": "here", "seen": "running"}]}))
    )
    terminal = Terminal("status", "--watch", "--interval", "0.1", *running(tmp_path, url))
    terminal.until(lambda shown: "node here: running" in shown)
    assert terminal.shown.startswith("\x1b[?1049h"), "it has a screen of its own"
    assert "\x1b[2J" not in terminal.shown.partition("q quits")[2], "nothing is cleared, so nothing flickers"
    terminal.resize(30, 130)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.until(lambda shown: " " * 100 in shown)
    os.write(terminal.master, b"q")
    assert terminal.end() == 0


def test_a_key_ends_it_also_while_nobody_answers(tmp_path: Path) -> None:
    terminal = Terminal("status", "--watch", *running(tmp_path, "http://127.0.0.1:1"))
    terminal.until(lambda shown: "nothing listens there" in shown)
    assert "ledger 1" in terminal.shown, "the supervisor wrote its processes"
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 0
