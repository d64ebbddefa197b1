"""Kannel itself: bearerbox, smsbox and fakesmsc of Debian's packages kannel and kannel-extras."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PLACES = "/usr/sbin:/usr/bin:/usr/lib/kannel/test:/usr/local/sbin"
PROGRAMS = {name: shutil.which(name, path=PLACES) for name in ("bearerbox", "smsbox", "fakesmsc")}
MISSING = [name for name, path in PROGRAMS.items() if path is None]

CONFIGURATION = """
group = core
admin-port = {admin}
admin-password = admin
admin-allow-ip = "127.0.0.1"
smsbox-port = {boxes}
box-allow-ip = "127.0.0.1"
log-file = "{directory}/bearerbox.log"

group = smsc
smsc = fake
smsc-id = fake
port = {smsc}
connect-allow-ip = 127.0.0.1

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = {sendsms}
log-file = "{directory}/smsbox.log"

group = sendsms-user
username = tester
password = secret
max-messages = 10
concatenation = true

group = sms-service
keyword = default
text = "no"
"""


class Kannel:
    """A gateway with one SMSC behind it, all of them processes of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = dict(zip(("admin", "boxes", "smsc", "sendsms"), _free_ports(4), strict=True))
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['sendsms']}"

    def start(self) -> None:
        configuration = self._directory / "kannel.conf"
        configuration.write_text(CONFIGURATION.format(directory=self._directory, **self._ports))
        self._run("bearerbox", str(configuration))
        _until(lambda: "Kannel bearerbox" in self._status())
        self._run("smsbox", str(configuration))
        _until(lambda: "smsbox:(none), IP 127.0.0.1" in self._status())
        smsc = str(self._ports["smsc"])
        self._run("fakesmsc", "-H", "127.0.0.1", "-r", smsc, "-m", "0", "1 2 text never sent")
        _until(lambda: "(online" in self._status())
        _until(lambda: _listens(self._ports["sendsms"]))

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            process.wait(60)

    def delivered(self) -> list[str]:
        """What has reached the SMSC, as fakesmsc prints it: "SENDER RECEIVER KIND TEXT"."""
        text = (self._directory / "fakesmsc.out").read_text(encoding="utf-8", errors="replace")
        # Every message is printed as "... Got message N: <...>", and may have line ends.
        return [part.partition(": <")[2].partition(">\n")[0] for part in text.split("Got message ")[1:]]

    def _run(self, name: str, *arguments: str) -> None:
        program = PROGRAMS[name]
        assert program
        with (self._directory / f"{name}.out").open("wb") as output:
            self._processes.append(
                subprocess.Popen([program, *arguments], stdout=output, stderr=output, cwd=self._directory)
            )

    def _status(self) -> str:
        url = f"http://127.0.0.1:{self._ports['admin']}/status.txt?password=admin"
        try:
            with urlopen(url, timeout=60) as answer:
                return str(answer.read().decode(errors="replace"))
        except (URLError, OSError):
            return ""


@contextlib.contextmanager
def running_kannel(directory: Path) -> Iterator[Kannel]:
    kannel = Kannel(directory)
    try:
        kannel.start()
        yield kannel
    finally:
        kannel.stop()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "Kannel did not come up"
        time.sleep(0.05)
