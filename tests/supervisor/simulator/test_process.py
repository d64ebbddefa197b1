"""The simulator's command and its life as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engine.errors import ConfigError
from supervisor.simulator import Simulator, main, options, start_simulator
from supervisor.simulator.behaviour import Receipts
from tests.supervisor.process.running import alive, until
from tests.supervisor.simulator.http_client import Client, ask, send_of

ROOT = Path(__file__).resolve().parents[3]


def test_flags_set_the_behaviour(tmp_path: Path) -> None:
    points = tmp_path / "latency.csv"
    points.write_text("quantile,ms\n0,1\n1,2\n")
    simulator = start_simulator(arguments=[
        "--latency-file", str(points), "--temporary", "0.1", "--permanent", "0.2", "--timeout-rate", "0.3",
        "--reset-rate", "0.4", "--throughput", "50", "--outage", "hang", "--seed", "9",
    ])  # fmt: skip
    try:
        assert ask(simulator, "GET", "/behaviour").json == {
            "latency": {"quantiles": [[0, 1], [1, 2]]},
            "error_rates": {"temporary": 0.1, "permanent": 0.2, "timeout": 0.3, "reset": 0.4},
            "lost_answers_count": True, "throughput": 50, "throughput_unit": "sends", "outage": "hang",
            "seed": 9, "receipts": None,
            "smpp": {"system_id": None, "password": None, "window": None, "malformed": 0,
                     "disconnect_every": None, "sessions_max": None, "receipt_form": "both"},
        }  # fmt: skip
    finally:
        simulator.stop()


def test_flags_set_receipts_and_smpp() -> None:
    simulator = start_simulator(smpp_listen="127.0.0.1:0", arguments=[
        "--receipt-url", "http://127.0.0.1:9/r", "--receipt-delay-lognormal", "90:0.5",
        "--receipt-undelivered", "0.1", "--receipt-duplicate", "0.2", "--receipt-before-response", "0.3",
        "--receipt-pending", "0.4", "--receipt-id-form", "decimal", "--smpp-system-id", "me",
        "--smpp-password", "word", "--smpp-window", "7", "--smpp-malformed", "0.5",
        "--smpp-disconnect-every", "8", "--smpp-sessions-max", "9", "--smpp-receipt-form", "tlv",
        "--throughput-unit", "segments",
    ])  # fmt: skip
    try:
        behaviour = ask(simulator, "GET", "/behaviour").json
        assert behaviour["receipts"] == {
            "delay": {"lognormal": {"median_ms": 90, "sigma": 0.5}}, "undelivered": 0.1, "duplicate": 0.2,
            "before_response": 0.3, "pending": 0.4, "url": "http://127.0.0.1:9/r", "id_form": "decimal",
        }  # fmt: skip
        assert behaviour["smpp"] == {
            "system_id": "me", "password": "word", "window": 7, "malformed": 0.5, "disconnect_every": 8,
            "sessions_max": 9, "receipt_form": "tlv",
        }  # fmt: skip
        assert behaviour["throughput_unit"] == "segments"
    finally:
        simulator.stop()


def test_any_flag_of_receipts_turns_them_on() -> None:
    assert options([]).behaviour.receipts is None
    assert options(["--receipts"]).behaviour.receipts == Receipts()
    assert options(["--receipt-pending", "1"]).behaviour.receipts == Receipts(pending=1)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--listen", "8090"], "--listen"),
        (["--listen", "127.0.0.1:99999"], "--listen"),
        (["--temporary", "2"], "--temporary"),
        (["--temporary", "much"], "--temporary"),
        (["--temporary", "0.7", "--reset-rate", "0.7"], "--reset-rate"),
        (["--latency-ms", "-1"], "--latency-ms"),
        (["--latency-ms", "nan"], "--latency-ms"),
        (["--latency-lognormal", "5"], "--latency-lognormal"),
        (["--latency-lognormal", "0:1"], "--latency-lognormal"),
        (["--latency-file", "/nonexistent.csv"], "--latency-file"),
        (["--latency-file", __file__], "--latency-file"),
        (["--latency-ms", "1", "--latency-lognormal", "1:1"], "--latency-ms"),
        (["--throughput", "0"], "--throughput"),
        (["--outage", "maybe"], "--outage"),
        (["--seed", "x"], "--seed"),
        (["--speed", "1"], "--speed"),
        (["--smpp-listen", "2775"], "--smpp-listen"),
        (["--throughput-unit", "messages"], "--throughput-unit"),
        (["--receipt-url", "engine"], "--receipt-url"),
        (["--receipt-undelivered", "2"], "--receipt-undelivered"),
        (["--receipt-before-response", "2"], "--receipt-before-response"),
        (["--receipt-delay-ms", "-1"], "--receipt-delay-ms"),
        (["--receipt-delay-lognormal", "5"], "--receipt-delay-lognormal"),
        (["--receipt-delay-file", __file__], "--receipt-delay-file"),
        (["--receipt-id-form", "octal"], "--receipt-id-form"),
        (["--smpp-window", "0"], "--smpp-window"),
        (["--smpp-system-id", "sixteen letters!"], "--smpp-system-id"),
        (["--smpp-receipt-form", "xml"], "--smpp-receipt-form"),
    ],
)
def test_a_wrong_flag_is_named_in_one_sentence(
    arguments: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert names in err
    assert err.count("\n") == 1
    assert err.endswith(".\n")


@pytest.fixture
def running() -> Iterator[Simulator]:
    simulator = start_simulator()
    yield simulator
    simulator.stop()


def test_a_port_that_is_taken_is_named(running: Simulator) -> None:
    address = urlsplit(running.url).netloc
    process = subprocess.run(
        [sys.executable, "-m", "supervisor.simulator", "--listen", address],
        capture_output=True, timeout=30, check=False, cwd=ROOT,
    )  # fmt: skip
    assert process.returncode == 2
    assert process.stderr.decode() == f"--listen {address} cannot be listened on: address already in use.\n"
    with pytest.raises(ConfigError, match=r"cannot be listened on: address already in use\.$"):
        start_simulator(address)


def test_errors_at_the_start_go_to_the_log_too(tmp_path: Path) -> None:
    log = tmp_path / "simulator.log"
    log.write_text("earlier\n")
    with pytest.raises(ConfigError, match="--seed"):
        start_simulator(log_path=log, arguments=["--seed", "x"])
    assert log.read_text().startswith("earlier\n")
    assert "--seed" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_well_when_told_to(number: signal.Signals) -> None:
    argv = [sys.executable, "-m", "supervisor.simulator", "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert "url" in json.loads(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_sigterm_to_a_whole_unit_leaves_it_to_its_parent() -> None:
    simulator = start_simulator()
    try:
        os.kill(simulator.pid, signal.SIGTERM)
        # The first might still be answered by one that is about to end.
        for _ in range(2):
            assert ask(simulator, "GET", "/stats").json["received"] == 0
    finally:
        simulator.stop()
    assert simulator.poll() == 0


def test_it_ends_well_though_an_answer_is_owed() -> None:
    simulator = start_simulator()
    with Client(simulator) as client:
        ask(simulator, "PUT", "/behaviour", {"outage": "hang"})
        client.write(
            "POST", "/send", json.dumps(send_of(1)).encode()
        )  # an answer still owed does not hold it
        assert simulator.poll() is None
        simulator.stop()
    assert simulator.poll() == 0
    simulator.stop()


def test_it_dies_with_its_parent() -> None:
    program = (
        "import os, time; from supervisor.simulator import start_simulator; "
        "s = start_simulator(); print(s.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
        parent.wait()
        until(lambda: not alive(pid))
