"""Starts the simulator as a separate process and waits until it answers."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from engine.errors import ConfigError

READY_S = 20.0
STOP_S = 5.0


class _Ready(msgspec.Struct):
    url: str
    smpp_port: int | None = None


class Simulator:
    """A running simulator. It is killed when the thread that started it ends."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, smpp_port: int | None = None) -> None:
        self._process = process
        self.url = url
        # None when it takes no SMPP.
        self.smpp_port = smpp_port

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it, by force after STOP_S seconds. A second call has no effect."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def start_simulator(
    listen: str = "127.0.0.1:0",
    *,
    smpp_listen: str | None = None,
    log_path: Path | None = None,
    arguments: Sequence[str] = (),
) -> Simulator:
    """Start a simulator and block until it answers.

    `arguments` are further flags of `smsengine simulator`. Its errors go to the end of
    `log_path`. When it does not start, ConfigError is raised with the simulator's own sentence.
    """
    argv = [
        sys.executable, "-m", "supervisor.simulator",
        "--listen", listen, "--json", "--die-with-parent", *arguments,
    ]  # fmt: skip
    if smpp_listen is not None:
        argv += ["--smpp-listen", smpp_listen]
    log: IO[bytes] = tempfile.TemporaryFile() if log_path is None else log_path.open("ab+")  # noqa: SIM115
    with log:
        start = log.seek(0, 2)
        process = subprocess.Popen(  # noqa: S603 - argv is built here
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            ready = msgspec.json.decode(_line(process), type=_Ready)
        except (msgspec.DecodeError, TimeoutError) as e:
            # It has ended, or hangs; asked to end in order it might add to what it said.
            process.kill()
            simulator = Simulator(process, "")
            simulator.stop()
            log.seek(start)
            errors = log.read(2000).decode("utf-8", "replace").strip().splitlines()
            raise ConfigError(errors[-1] if errors else "The simulator did not start in time.") from e
        except BaseException:
            Simulator(process, "").stop()
            raise
    return Simulator(process, ready.url, ready.smpp_port)


def _line(process: subprocess.Popen[bytes]) -> bytes:
    """The first line that it prints; b"" when it ends before that. Raises TimeoutError."""
    assert process.stdout is not None
    deadline = time.monotonic() + READY_S
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            raise TimeoutError
        piece = process.stdout.read1(4096)  # type: ignore[attr-defined]
        if not piece:
            break
        line += piece
    return line
