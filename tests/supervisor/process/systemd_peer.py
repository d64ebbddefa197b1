"""What systemd does for a service: hears its notifications and hands over a listening socket."""

from __future__ import annotations

import socket
import time
from pathlib import Path

# Run with `python -c`: arguments are the descriptors to hand over, joined by commas, and the program.
AS_SYSTEMD = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
for n, fd in enumerate([os.dup(fd) for fd in fds]):
    os.dup2(fd, 3 + n)
    os.set_inheritable(3 + n, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds))}
os.environ.setdefault("LISTEN_FDNAMES", "smsengine.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Systemd:
    """The end of NOTIFY_SOCKET that systemd holds."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(20)

    def close(self) -> None:
        self._socket.close()

    def hear(self, beginning: str) -> list[str]:
        """All datagrams since the last call, up to the first that begins so, which is the last."""
        datagrams: list[str] = []
        until = time.monotonic() + 180
        while not datagrams or not datagrams[-1].startswith(beginning):
            said = [text for text in datagrams if text != "WATCHDOG=1"]
            assert time.monotonic() < until, f"It never said {beginning!r}, but {said[-5:]}"
            datagrams.append(self._socket.recv(4096).decode())
        return datagrams

    def flush(self) -> list[str]:
        """All datagrams that have come and are not read yet."""
        datagrams: list[str] = []
        self._socket.setblocking(False)
        try:
            while True:
                datagrams.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return datagrams
        finally:
            self._socket.settimeout(20)
