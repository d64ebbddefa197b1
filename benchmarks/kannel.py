"""Kannel (https://www.kannel.org) under measurement: bearerbox and smsbox, with an SMPP provider behind them.

What it accepts it keeps in a store before it answers. `file` is one file to which each message and each end
of one is appended; `spool` is a file for each message. Neither is flushed to the disk: the operating system
writes it some time later. So what was accepted survives the end of Kannel, and not that of the machine.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.running import cpu_s_of

Store = Literal["file", "spool"]

MISSING = (
    "Kannel is not here: install it (Debian: `apt install kannel`), or put its `bearerbox` and `smsbox` on "
    "the PATH; without it leave out the case `kannel`."
)
# What Kannel may have to deliver before it refuses more.
_QUEUE_MAX = 2_000_000
_READY_S = 20.0

_CONFIGURATION = """\
group = core
admin-port = {admin}
admin-password = benchmark
admin-interface = "127.0.0.1"
smsbox-port = {box}
smsbox-interface = "127.0.0.1"
box-allow-ip = "127.0.0.1"
box-deny-ip = "*.*.*.*"
log-file = "{folder}/bearerbox.log"
log-level = 2
dlr-storage = internal
store-type = {store}
store-location = "{folder}/store"
sms-outgoing-queue-limit = {queue_max}

group = smsc
smsc = smpp
smsc-id = simulator
host = 127.0.0.1
port = {smpp_port}
smsc-username = "{system_id}"
smsc-password = "{password}"
system-type = ""
transceiver-mode = true
max-pending-submits = {window}

group = smsbox
bearerbox-host = 127.0.0.1
bearerbox-port = {box}
sendsms-port = {sendsms}
sendsms-interface = "127.0.0.1"
log-file = "{folder}/smsbox.log"
log-level = 2

group = sendsms-user
username = benchmark
password = benchmark
concatenation = true

group = sms-service
keyword = default
text = "none"
"""


def is_here() -> bool:
    """Whether both programs are on the PATH."""
    return all(map(shutil.which, ("bearerbox", "smsbox")))


def version() -> str:
    """Its version, as bearerbox says."""
    printed = subprocess.run(["bearerbox", "--version"], capture_output=True, text=True, check=False)
    found = [line for line in (printed.stdout + printed.stderr).splitlines() if "version" in line.lower()]
    return found[0].strip() if found else "unknown"


@dataclass(frozen=True, kw_only=True)
class Kannel:
    """A running Kannel."""

    port: int
    pids: dict[str, int]

    def path(self, to: str, text: str) -> bytes:
        """The path of the call that sends one message; `text` as it stands in a URL."""
        return (
            f"/cgi-bin/sendsms?username=benchmark&password=benchmark&from=1000&to={to}&text={text}"
        ).encode()

    def cpu_s(self) -> dict[str, float]:
        """CPU time used so far by each of its processes, seconds."""
        return {name: cpu_s_of(pid) for name, pid in self.pids.items()}


@contextlib.contextmanager
def kannel(
    folder: Path, smpp_port: int, *, system_id: str, password: str, window: int, store: Store
) -> Iterator[Kannel]:
    """Kannel with its files in `folder`, sending to the SMPP provider at that port; stopped at the end.

    Raises SystemExit when it is not here or does not start.
    """
    if not is_here():
        raise SystemExit(MISSING)
    admin, box, sendsms = _free_ports(3)
    if store == "spool":
        (folder / "store").mkdir()
    configuration = folder / "kannel.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            admin=admin, box=box, sendsms=sendsms, folder=folder, store=store, queue_max=_QUEUE_MAX,
            smpp_port=smpp_port, system_id=system_id, password=password, window=window,
        )
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        pids = {}
        for name, port in (("bearerbox", box), ("smsbox", sendsms)):
            pids[name] = stack.enter_context(_started(name, configuration)).pid
            _await_port(port, name, folder)
        yield Kannel(port=sendsms, pids=pids)


@contextlib.contextmanager
def _started(name: str, configuration: Path) -> Iterator[subprocess.Popen[bytes]]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([name, "-v", "4", str(configuration)], stdout=quiet, stderr=quiet)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(port: int, name: str, folder: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)
    log = folder / f"{name}.log"
    last = log.read_text(errors="replace")[-500:] if log.exists() else "it wrote no log"
    raise SystemExit(f"{name} of Kannel does not start: {last}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]
