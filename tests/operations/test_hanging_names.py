"""Name servers that never answer: who is known by another name, or by an address, is sent to meanwhile."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.simulator import Simulator, start_simulator
from tests.operations.test_no_room_for_processes import row_of
from tests.system.carriers import message_of, quantile, seconds_until
from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, start_engine
from tests.system.faults import assert_clean

# Of the network that is this machine; resolv.conf knows port 53 alone.
SILENT = "127.9.9.9"
HANGING = 6
CONFIG = """
[[providers]]
name = "well"
type = "http"
preset = "simulated"
url = "http://well.example:{port}"
timeout_s = 4

[[routes]]
prefix = "+49"
providers = ["well"]

[[routes]]
prefix = "+98"
providers = [{hanging}]
"""
HTTP = '\n[[providers]]\nname = "h{n}"\ntype = "http"\npreset = "simulated"\nurl = "http://h{n}.example"\n'
SMPP = (
    '\n[[providers]]\nname = "h{n}"\ntype = "smpp"\nhost = "h{n}.example"\nport = 2775\nsystem_id = "x"\n'
    'password = "x"\nmessage_id_parameter = "1401"\n'
)
# A file system of its own, in which the names are asked of the silent server.
BEFORE = (
    "mount --bind {folder}/resolv.conf /etc/resolv.conf && mount --bind {folder}/hosts /etc/hosts"
    ' && exec "$@"'
)


@contextmanager
def silent_name_server() -> Iterator[list[bytes]]:
    """Takes questions, and never answers; the questions."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind((SILENT, 53))
        except OSError as e:
            pytest.skip(f"no name server can be run here: {e}")

        def take() -> None:
            while question := server.recv(4096):
                if question == b"end":
                    return
                asked.append(question)

        thread = threading.Thread(target=take)
        thread.start()
        yield asked
        server.sendto(b"end", (SILENT, 53))
        thread.join()


@pytest.fixture
def provider() -> Iterator[Simulator]:
    simulator = start_simulator()
    yield simulator
    simulator.stop()


@pytest.fixture
def victim(tmp_path: Path, provider: Simulator) -> Iterator[Engine]:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root may give a process another /etc/resolv.conf here")
    (tmp_path / "resolv.conf").write_text(f"nameserver {SILENT}\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost well.example\n")
    names = [f"h{n}" for n in range(HANGING)]
    sections = "".join((HTTP if n % 2 else SMPP).format(n=n) for n in range(HANGING))
    config = tmp_path / "smsengine.toml"
    port = provider.url.rpartition(":")[2]
    config.write_text(CONFIG.format(port=port, hanging=", ".join(f'"{n}"' for n in names)) + sections)
    before = ("unshare", "-m", "sh", "-c", BEFORE.format(folder=tmp_path), "sh")
    engine = start_engine(tmp_path / "data", ("--demo", "--config", config), before=before)
    yield engine
    engine.stop()
    engine.kill()


def test_express_keeps_its_time_and_threads_are_few(victim: Engine) -> None:
    caller = Caller(victim.url, victim.api_key)

    def send(number: str) -> str:
        status, answer = caller.call(
            "POST", "/v1/messages", {"to": number, "text": "hello", "queue": "express", "validity": 3600}
        )
        assert status == 202, answer
        return str(answer["id"])

    with silent_name_server() as asked:
        for n in range(300):
            send(f"+98912{n:07}")
        eventually(lambda: asked)
        pid = row_of(victim, "express")["pid"]
        ids, threads = [], 0
        for n in range(12):
            ids.append(send(f"+4915112345{n:03}"))
            eventually(lambda: message_of(victim, ids[-1])["status"] == "sent")
            threads = max(threads, len(os.listdir(f"/proc/{pid}/task")))
            # The connection is closed by its idle time, so that the name is looked up again.
            threading.Event().wait(4.5 if n % 4 == 3 else 0)
        waited = [w for i in ids if (w := seconds_until("sent", message_of(victim, i))) is not None]
        p50, most = quantile(waited, 0.5) * 1000, max(waited) * 1000
        print(f"sent after p50 {p50:.0f} ms, most {most:.0f} ms; {threads} threads, {len(asked)} questions")  # noqa: T201
        # A look-up in a thread for all names would hold the others up for 5 s and more.
        assert most < 4000
        # A look-up for each name, and a few of libraries.
        assert threads <= HANGING + 8
        assert row_of(victim, "express")["pid"] == pid
        assert row_of(victim, "express")["restarts"] == 0
    assert_clean(victim)
